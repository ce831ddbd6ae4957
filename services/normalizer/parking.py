"""What could not be understood, kept for whoever has to find out why."""

from __future__ import annotations

import msgspec
import structlog

from services.common.errors import RecordTooLarge
from services.common.stream import Broker, Message, Position, Publisher, Record
from services.common.subjects import INVALID_SUBJECT
from services.common.wire import RECORD_VERSION, Parked, encode
from services.normalizer.metrics import Metrics
from services.normalizer.restore import patiently
from services.normalizer.venues import Unmappable

log = structlog.get_logger(__name__)

# Of an original that is too large for the broker this much is kept, characters.
_KEPT = 64 * 1024


class _Received(msgspec.Struct):
    ts_recv: int = 0


_received = msgspec.json.Decoder(_Received)


class Parking:
    """Collects refusals while a batch is worked on; `flush` publishes them on `market.invalid`.

    The same record may be parked again after a crash: (`subject`, `cursor`) tells it is the same.
    """

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self._broker = broker
        self._metrics = metrics
        self._waiting: list[Parked] = []
        self._last = 0

    def refuse(self, message: Message, error: Unmappable) -> None:
        self._metrics.invalid(error.code)
        self._waiting.append(
            Parked(
                v=RECORD_VERSION,
                reason=str(error),
                subject=message.subject,
                cursor=message.cursor,
                ts_recv=_ts_recv(message.payload),
                original=message.payload.decode(errors="replace"),
            )
        )

    async def flush(self, publisher: Publisher) -> None:
        """Send what waits; it is durable with everything else the publisher was given so far."""
        if not self._waiting:
            return
        log.warning(
            "raw_records_refused",
            count=len(self._waiting),
            subject=self._waiting[0].subject,
            reason=self._waiting[0].reason,
        )
        # Several normalizers may park, and positions on the subject have to increase.
        newest = await patiently(lambda: self._broker.last(INVALID_SUBJECT))
        if newest is not None:
            self._last = max(self._last, newest.position.seq)
        waiting, self._waiting = self._waiting, []
        for parked in waiting:
            self._last = max(parked.ts_recv, self._last + 1)
            position = Position(0, self._last)
            try:
                await publisher.send(Record(INVALID_SUBJECT, encode(parked), position))
            except RecordTooLarge:
                short = msgspec.structs.replace(parked, original=parked.original[:_KEPT])
                await publisher.send(Record(INVALID_SUBJECT, encode(short), position))


def _ts_recv(payload: bytes) -> int:
    try:
        return max(0, _received.decode(payload).ts_recv)
    except (ValueError, RecursionError):
        # Not even this much of it can be read.
        return 0
