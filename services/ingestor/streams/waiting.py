"""A product's place on a line that stands by: it listens, writes nothing, and remembers. Pure."""

from __future__ import annotations

from collections import deque

from services.ingestor.streams.gate import Arrived
from services.ingestor.streams.product_streams import ProductStreams
from services.ingestor.venues.base import Event, Kind

# More than a takeover takes, with what the log was late by; what is older is fetched if need be.
_KEPT_US = 5_000_000
_KEPT = 8_192
# An update says nothing without its book, which is asked for anew by whoever takes over.
_OF_BASES = frozenset({Kind.BOOK_UPDATE, Kind.BOOK_SNAPSHOT})


class WaitingStreams(ProductStreams):
    """Keeps the last seconds of a product's messages for the streams that take its place."""

    def __init__(self, product: str) -> None:
        super().__init__(product, None, None, None, lambda _want: None)
        self._recent: deque[Arrived] = deque(maxlen=_KEPT)

    def feed(self, event: Event, body: bytes, ts: int) -> None:
        """Remember an event for a while."""
        if event.kind is Kind.HEARTBEAT:
            self.heard = ts
        if event.kind in _OF_BASES:
            return
        recent = self._recent
        recent.append(Arrived(event, body, ts))
        while recent[0].ts < ts - _KEPT_US:
            recent.popleft()

    def hand_over(self, streams: ProductStreams, ts: int) -> None:
        """Give `streams`, which go on where the log ends, what came lately on the connection."""
        for arrived in self._recent:
            streams.feed(*arrived)
        streams.connected(ts)
        streams.heard = self.heard
        streams.refused = self.refused
