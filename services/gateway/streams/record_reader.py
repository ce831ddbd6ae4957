"""Reading the logs' records, for all who use them later."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from services.common.observability import tracing
from services.common.observability.metrics import STAGE_TICK
from services.common.observability.tracing import TRACEPARENT
from services.common.stream import Message
from services.common.wire import UNREADABLE
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.metrics import Metrics

log = structlog.get_logger(__name__)


class RecordReader:
    """Makes records of messages; those that cannot be read are counted and logged."""

    def __init__(self, metrics: Metrics) -> None:
        self._invalid = metrics.invalid

    def read(self, messages: Iterable[Message]) -> list[StreamRecord]:
        """The records, in order.

        One that is not even a record is left out: what comes next will not follow what came before.
        """
        records: list[StreamRecord] = []
        for message in messages:
            try:
                record = StreamRecord(message.payload)
            except UNREADABLE as error:
                self._invalid.labels("not_a_record", STAGE_TICK).inc()
                log.error("record_unreadable", subject=message.subject, error=str(error))
                continue
            if record.unreadable is not None:
                self._invalid.labels(record.unreadable, STAGE_TICK).inc()
                log.error("record_unreadable", subject=message.subject, error=record.unreadable)
            if tracing.ACTIVE is not None and TRACEPARENT in (headers := message.headers):
                record.trace = (time.time_ns() // 1000, headers)
            records.append(record)
        return records
