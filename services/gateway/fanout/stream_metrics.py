"""What the fan-out counts of one stream, without knowing the library that counts. Pure."""

from __future__ import annotations

from typing import Protocol


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class Gauge(Counter, Protocol):
    def dec(self, amount: float = 1) -> None: ...


class Histogram(Protocol):
    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None: ...


class StreamMetrics(Protocol):
    """Bound to the stream's labels already."""

    @property
    def sent(self) -> Counter:
        """Messages put on their way."""

    @property
    def conflated(self) -> Counter:
        """Ticks that a later one stood for."""

    @property
    def end_to_end(self) -> Histogram:
        """Seconds from the ingestor's receipt to the socket write."""

    @property
    def subscriptions(self) -> Gauge:
        """Of all clients."""

    @property
    def snapshot_seconds(self) -> Histogram:
        """From a subscription's arrival to its snapshot being on its way."""

    @property
    def backfill_seconds(self) -> Histogram:
        """From a backfill's begin to its end."""

    @property
    def backfill_ticks(self) -> Counter:
        """Records sent to clients that catch up."""
