"""An ingestor's pulse: that it hears of its products now, also when their streams say nothing.

It takes the way of the streams' records through the logs, so that a gateway can tell a quiet market
from a way on which something stands still (`services.common.wire.Pulse`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.common.stream import Position, Record
from services.common.subjects import pulse_key, raw_subject
from services.common.wire import RECORD_VERSION, PulseBody, RawRecord, encode, to_raw
from services.ingestor.streams import ProductStreams
from services.ingestor.streams.raw_writer import Offer


class Pulse:
    """Writes it.

    Args:
        venue: of the products.
        name: of the pulse's subject. The same after a restart, and no other ingestor's.
        line: which ingestor writes.
        offer: where records go. A pulse that is refused is not repeated: the next one says more.
        suspect_us: age of a product's last heartbeat at which it is no longer heard of.
        after: where the newest pulse of that name stands; another line with another clock may have
            written it.
    """

    def __init__(
        self, venue: str, name: str, line: str, offer: Offer, suspect_us: int, *, after: int = 0
    ) -> None:
        self.key = pulse_key(venue, name)  # where it goes
        self._line = line
        self._offer = offer
        self._suspect_us = suspect_us
        # Messages that each product had at the last beat.
        self._seen: dict[str, int] = {}
        self._seq = after

    def beat(self, served: Iterable[ProductStreams], epoch: int, now: int) -> bool:
        """Write the products that are heard of; False when there are none, or no room.

        `epoch` is the raw log's, `now` in µs.
        """
        products = [streams.product for streams in served if self._hears(streams, now)]
        if not products:
            return False
        # Whoever had this name before wrote the time too; a clock that went back is waited for.
        self._seq = max(self._seq + 1, now)
        seq, body = self._seq, to_raw(PulseBody(products))
        raw = RawRecord(
            RECORD_VERSION, "pulse", *self.key, epoch, seq, 0, None, now, self._line, body
        )
        return self._offer(Record(raw_subject(self.key), encode(raw), Position(epoch, seq)))

    def _hears(self, streams: ProductStreams, now: int) -> bool:
        before = self._seen.get(streams.product)
        self._seen[streams.product] = messages = streams.messages
        if streams.heard and now - streams.heard <= self._suspect_us:
            return True
        return before is not None and messages != before
