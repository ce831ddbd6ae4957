"""How long to wait before the next attempt: exponential up to a cap, with jitter. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

# Whole numbers of doublings that exceed any cap; larger powers would only overflow.
_MOST_DOUBLINGS = 30


def delay_s(
    attempt: int,
    *,
    first_s: float = 0.05,
    cap_s: float = 2.0,
    least: float = 0.5,
    draw: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait after failed attempt number `attempt` (0, 1, ...).

    Args:
        attempt: how many attempts failed before this one.
        first_s: the bound of the first delay; each next bound is twice the one before.
        cap_s: the largest bound.
        least: the share of the bound that a delay has at least. One half keeps a refusing server
            from being hammered; 0.0 (full jitter) spreads many clients best; 1.0 is no jitter.
        draw: a number in [0, 1).
    """
    bound = min(cap_s, first_s * 2.0 ** min(attempt, _MOST_DOUBLINGS))
    return bound * (least + (1.0 - least) * draw())


class Backoff:
    """Counts the attempts of one caller. `next_delay` after a failure, `reset` after a success.

    Args:
        first_s: as in `delay_s`; so are `cap_s`, `least` and `draw`.
        immediate: the first delay is zero, and the bounds begin with the second.

    Attributes:
        attempts: failures since the last success.
    """

    def __init__(
        self,
        first_s: float,
        cap_s: float,
        *,
        least: float = 0.5,
        immediate: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._delay_s = partial(delay_s, first_s=first_s, cap_s=cap_s, least=least, draw=draw)
        self._immediate = immediate
        self.attempts = 0

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        attempt = self.attempts - 1 if self._immediate else self.attempts
        self.attempts += 1
        return 0.0 if attempt < 0 else self._delay_s(attempt)

    def reset(self) -> None:
        self.attempts = 0
