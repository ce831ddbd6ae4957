"""Refused HTTP connections and requests: all of them counted, some of them logged."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from services.common.resilience.token_bucket import TokenBucket

log = structlog.get_logger(__name__)

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
