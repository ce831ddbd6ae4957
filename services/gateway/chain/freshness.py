"""How old what a stream serves is, and when that has to be said. Pure: it is given times, µs.

A stream says nothing while its market is quiet, and nothing when a part of the way to here stands
still. Pulses tell the two apart: an ingestor writes them as long as it hears a product's venue, and
they come the way of the ticks (`services.common.wire.Pulse`). So the newest pulse, or record, that
came through says until when what is served is whole, whichever part stopped after that: ingestor,
normalizer, broker, or the reader here. A backlog shows as its age, since it is worked on in order.

Times are those of receiving, by the ingestors' clocks; the venue's own never count. A product
without any pulse (an older ingestor's, or replayed by an older tool) is judged by when its streams'
records came here, since their times may be those of a recording.
"""

from __future__ import annotations

from collections.abc import Iterable


class Pulses:
    """When each product was last heard of by its ingestor."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], int] = {}

    def record(self, venue: str, products: Iterable[str], ts: int, now: int) -> None:
        """A pulse came through; one from a clock ahead of ours counts as of now."""
        ts = min(ts, now)
        for product in products:
            key = (venue, product)
            if ts > self._heard.get(key, 0):
                self._heard[key] = ts

    def of(self, venue: str, product: str) -> int | None:
        return self._heard.get((venue, product))


class Age:
    """One stream's."""

    __slots__ = ("_arrived", "_mark", "_most", "_proven", "heard", "since", "stale")

    def __init__(self, most: int, now: int) -> None:
        self.heard = now  # up to when what is served is whole
        self.stale = False  # whether it is older than it may be
        self.since = now  # when it became what it is
        self._most = most
        self._mark: object = None
        self._arrived = now
        self._proven = False

    def prove(self, pulse: int | None, ingested: int, mark: object, now: int) -> None:
        """Everything that came through was taken, up to the record at `mark`.

        Args:
            pulse: the product's newest one, if there is any.
            ingested: `ts_ingest` of the stream's newest record.
            mark: where that stands; only compared.
            now: the time of day.
        """
        if mark != self._mark:
            self._mark = mark
            self._arrived = now
        heard = max(self._arrived if pulse is None else pulse, min(ingested, now))
        # Before the first proof nothing is known, and what is served is given its time.
        self.heard = max(self.heard, heard) if self._proven else heard
        self._proven = True

    def judge(self, now: int) -> bool:
        """Whether `stale` changed."""
        stale = now - self.heard > self._most
        if stale is self.stale:
            return False
        self.stale = stale
        self.since = now
        return True
