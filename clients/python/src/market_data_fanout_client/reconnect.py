"""How long to wait before connecting again. Pure."""

from __future__ import annotations

_FIRST_S = 0.05


def longest_wait_s(failures: int, *, established: bool, spread_s: float, max_s: float) -> float:
    """The bound below which a wait is drawn at random.

    It doubles with every failure in a row. Who lost a connection that stood is not alone: a whole
    gateway's clients come back at once, and are spread over `spread_s`.
    """
    bound = _FIRST_S * 2.0 ** min(failures, 20)
    return min(max_s, max(bound, spread_s) if established else bound)
