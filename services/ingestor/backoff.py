"""How long to wait before trying again: exponential, capped, with full jitter. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """`next_delay` answers 0 first, then a random time below a doubling bound.

    Full jitter (any delay between zero and the bound) keeps many clients from coming back
    together. `reset` after a success.

    Args:
        base: the first bound, seconds.
        cap: the largest bound, seconds.
        immediate: whether the first delay is zero; False starts with a random one below `base`.
        draw: a number in [0, 1).
    """

    def __init__(
        self,
        base: float,
        cap: float,
        *,
        immediate: bool = True,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._base = base
        self._cap = cap
        self._immediate = immediate
        self._draw = draw
        self.attempts = 0

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        exponent = self.attempts - 1 if self._immediate else self.attempts
        self.attempts += 1
        if exponent < 0:
            return 0.0
        # 2**30 exceeds any cap; larger powers would only overflow.
        return self._draw() * min(self._cap, self._base * float(2 ** min(exponent, 30)))

    def reset(self) -> None:
        self.attempts = 0
