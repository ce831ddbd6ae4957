"""What HTTP connections may hold together: places, and answers that nobody reads. Pure.

Those that are refused are all counted, and some of them logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from services.common.resilience import TokenBucket
from services.gateway.admission.addresses import less

log = structlog.get_logger(__name__)

# A client that reads this slowly, bytes a second, still gets a whole answer.
SLOWEST_BYTES_PER_S = 64 * 1024


class _Held(NamedTuple):
    address: str
    size: int


@dataclass(slots=True, eq=False)
class HttpLimits:
    """Of one listener."""

    _connections: int  # that speak HTTP at a time; WebSockets are none of them
    _queue_bytes: int  # of answers that wait for all of them
    _write_s: float  # how long an answer may wait beside the time that its size takes
    per_address: int = 0  # connections from one address; 0 is unlimited
    open: int = 0
    by_address: Counter[str] = field(default_factory=Counter)
    held_bytes: int = 0
    # Who waits, in the order in which they began to.
    _held: dict[Hashable, _Held] = field(default_factory=dict)

    def acquire(self, address: str = "") -> str:
        """Take a place; or why there is none, and none was taken: `connections` or `address`.

        An empty address is nobody's: it may have all.
        """
        if self.open >= self._connections:
            return "connections"
        if address and self.per_address and self.by_address[address] >= self.per_address:
            return "address"
        self.open += 1
        if address:
            self.by_address[address] += 1
        return ""

    def release(self, address: str = "") -> None:
        """Give the place back."""
        self.open -= 1
        if address:
            less(self.by_address, address)

    def seconds(self, size: int) -> float:
        """How long `size` bytes of an answer may wait for their reader."""
        return self._write_s + size / SLOWEST_BYTES_PER_S

    def hold(self, one: Hashable, address: str, size: int) -> list[Hashable]:
        """`size` bytes wait for this reader; who has to go for it.

        Those who go are forgotten. They are of the address that holds the most, oldest first: one
        who asks much and reads nothing pays for it, not whoever asks next.
        """
        self.drained(one)
        self._held[one] = _Held(address, size)
        self.held_bytes += size
        gone: list[Hashable] = []
        while self.held_bytes > self._queue_bytes and len(self._held) > 1:
            by_address: Counter[str] = Counter()
            for held in self._held.values():
                by_address[held.address] += held.size
            worst = by_address.most_common(1)[0][0]
            victim = next(key for key, held in self._held.items() if held.address == worst)
            self.drained(victim)
            gone.append(victim)
        return gone

    def drained(self, one: Hashable) -> None:
        """Nothing waits for it any more, or it is gone."""
        held = self._held.pop(one, None)
        if held is not None:
            self.held_bytes -= held.size


# So many lines at once, and one more each so many seconds.
_LOG_BURST, _LOG_S = 10, 10.0


class Refusals:
    """Counts what is refused, and logs a bounded part of it, however much there is.

    Args:
        clock: seconds, does not go back.
        on_refused: called with the reason of each.
    """

    def __init__(self, clock: Callable[[], float], on_refused: Callable[[str], None]) -> None:
        self._on_refused = on_refused
        self._clock = clock
        self._lines = TokenBucket(1 / _LOG_S, _LOG_BURST, clock())
        self._unlogged = 0

    def count(self, reason: str, address: str, detail: str = "") -> None:
        self._on_refused(reason)
        if self._lines.acquire(self._clock()) > 0:
            self._unlogged += 1
            return
        log.info(
            "http_refused",
            reason=reason,
            address=address,
            # Of llhttp or of this module: never the client's own words.
            detail=detail[:200],
            unlogged=self._unlogged,
        )
        self._unlogged = 0
