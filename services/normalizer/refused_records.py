"""Records that are not understood, as dead letters for whoever has to find out why."""

from __future__ import annotations

import msgspec
import structlog

from services.common.errors import RecordRefused, RecordTooLarge
from services.common.stream import Broker, Message, Record
from services.common.stream.dead_letters import DeadLetters, InvalidLog
from services.common.wire import RECORD_VERSION, Missed, Parked, Reset, Tick, decode_record
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import RepairRequest
from services.normalizer.stand_in import missed_by
from services.normalizer.venues.mapping import Unmappable

log = structlog.get_logger(__name__)

_MAX_TS = 2**63 - 1


class _Received(msgspec.Struct):
    """When a raw record, or a tick's, was received."""

    ts_recv: int = 0
    ts_ingest: int = 0


_received = msgspec.json.Decoder(_Received)


class RefusedRecords:
    """Collects refusals while a batch is worked on; `flush` stores them on `market.invalid`.

    The same record may be parked again after a crash: (`subject`, `cursor`) tells it is the same.
    """

    def __init__(self, broker: Broker, metrics: Metrics) -> None:
        self._log = InvalidLog(broker)
        self._metrics = metrics
        self._dead_letters = DeadLetters(self._log)

    def record(self, message: Message, error: Unmappable, ask: RepairRequest | None = None) -> None:
        """Keep a record that is not understood, as a whole or in part.

        `ask`: what readers go without because of it.
        """
        self._metrics.invalid(error.code)
        missed = None if ask is None else ask.missed
        original = message.payload.decode(errors="replace")
        self._keep(str(error), message, message.cursor, original, missed)

    def missed(self, message: Message, ask: RepairRequest) -> None:
        """Tell who writes the raw log what readers go without since this record."""
        self._keep(ask.cause, message, message.cursor, "", ask.missed)

    def unstorable(self, record: Record, error: RecordRefused) -> None:
        """A tick that its log can never hold."""
        code = "record_too_large" if isinstance(error, RecordTooLarge) else "record_refused"
        self._metrics.invalid(code)
        original = record.payload.decode(errors="replace")
        self._keep(f"{code}: {error.reason}", record, "", original, _missed_by(record.payload))

    def _keep(
        self, reason: str, of: Message | Record, cursor: str, original: str, missed: Missed | None
    ) -> None:
        ts = _ts_of(of.payload)
        self._dead_letters.add(
            Parked(RECORD_VERSION, reason, of.subject, cursor, ts, original, missed)
        )

    async def flush(self) -> None:
        """Store what waits; then the records it came from may be acknowledged."""
        if (first := self._dead_letters.first) is not None:
            log.warning(
                "raw_records_refused",
                count=len(self._dead_letters),
                subject=first.subject,
                reason=first.reason,
            )
        await self._dead_letters.flush()

    async def aclose(self) -> None:
        await self._log.aclose()


def _missed_by(payload: bytes) -> Missed | None:
    record = decode_record(payload)
    return missed_by(record) if isinstance(record, Tick | Reset) else None


def _ts_of(payload: bytes) -> int:
    try:
        found = _received.decode(payload)
    except (ValueError, RecursionError):
        # Not even this much of it can be read.
        return 0
    ts = found.ts_recv or found.ts_ingest
    # What no reader can hold says nothing either; the original keeps it.
    return ts if 0 <= ts <= _MAX_TS else 0
