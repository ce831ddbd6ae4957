"""Where records leave for the broker: one pipelined publisher, never waited for on the way in.

Messages of the venue that cannot be used leave as dead letters, for whoever investigates them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from opentelemetry.trace import Span, SpanKind

from services.common.clock import now_us
from services.common.errors import BrokerClosed, BrokerFailed, RecordRefused, RecordTooLarge
from services.common.observability import tracing
from services.common.observability.tracing import Tracing, exemplar_of, headers_of
from services.common.resilience import Circuit, CircuitBreaker
from services.common.stream import Publisher, PublisherStats, Record
from services.common.stream.dead_letters import DeadLetters
from services.common.subjects import key_of
from services.common.wire import RECORD_VERSION, Parked, decode_raw
from services.ingestor.metrics import Metrics

log = structlog.get_logger(__name__)

# The longest pause that a busy broker gets, each time.
_RELIEF_S = 0.25
# Traced records that wait for the broker; the spans of more than that are not kept.
_TRACED_AT_ONCE = 1000
# Of a malformed message this much is kept: enough to see what it was.
_KEPT_CHARACTERS = 65_536
# How many wait for the broker; of a flood the newest are as telling as all.
MAX_WAITING = 256


class UnreadableFrames:
    """Counts each message by its reason and hands it to the dead letters."""

    def __init__(self, dead_letters: DeadLetters, metrics: Metrics) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics

    def park(self, reason: str, original: bytes, ts: int) -> None:
        """Keep a message that was received at `ts`, µs."""
        self._metrics.invalid(reason)
        text = original[:_KEPT_CHARACTERS].decode(errors="replace")
        self._dead_letters.add(Parked(RECORD_VERSION, reason, "", "", ts, text))


@dataclass(slots=True, eq=False)
class RawPublisher:
    """Offers records to the publisher's bounded window and remembers when it was full."""

    _publisher: Publisher  # open; closed by whoever opened it
    _metrics: Metrics
    _unreadable: UnreadableFrames  # for records that the log can never hold
    max_records: int  # the publisher's window, to judge when there is room again
    max_bytes: int  # the same in bytes
    # Opened by a full window. While it is open records are refused without being offered; its probe
    # looks whether the window has drained to half (a hysteresis).
    breaker: CircuitBreaker
    # Whether this ingestor may write now; None where it is alone.
    may_write: Callable[[], bool] | None = None
    _traced: deque[tuple[int, float, Span]] = field(default_factory=deque, init=False)
    _has_traced: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    ticket: int = 0
    refused: int = 0

    def offer(self, record: Record) -> bool:
        """Take a record, or answer False when there is no room for it now.

        Raises:
            RecordRefused: the log can never hold it; it was parked.
            BrokerFailed: the publisher broke, and with it went what was not stored. Where streams
                go on is for the log to say, so the ingestor ends and begins anew from there.
        """
        if self.breaker.state is not Circuit.CLOSED and not self.has_room():
            self.refused += 1
            return False
        if self.may_write is not None and not self.may_write():
            self.refused += 1
            return False
        span = None
        if tracing.ACTIVE is not None and tracing.ACTIVE.chosen():
            record, span = _traced(tracing.ACTIVE, record)
        try:
            ticket = self._publisher.offer(record)
        except RecordRefused as error:
            self.refused += 1
            self._unreadable.park(refusal_of(error), record.payload, now_us())
            log.error("record_refused", subject=error.subject, reason=error.reason)
            raise
        if ticket is None:
            self.breaker.failed(time.monotonic())
            self.refused += 1
            return False
        self.ticket = ticket
        if span is not None and len(self._traced) < _TRACED_AT_ONCE:
            self._traced.append((ticket, time.monotonic(), span))
            self._has_traced.set()
        return True

    def has_room(self) -> bool:
        """Whether records are taken now."""
        breaker, now = self.breaker, time.monotonic()
        if breaker.state is Circuit.CLOSED:
            return True
        if not breaker.allows(now):
            return False
        if self._more_than_half(self._publisher.stats()):
            breaker.failed(now)
            return False
        breaker.succeeded()
        return True

    def _more_than_half(self, stats: PublisherStats) -> bool:
        return stats.in_flight * 2 > self.max_records or stats.bytes_in_flight * 2 > self.max_bytes

    async def backpressure(self) -> None:
        """Wait a moment when more than half of the window is used and the broker still takes more.

        Reading slower for a moment is better than dropping: the socket's buffers hold what comes.
        A broker that is away is not waited for.
        """
        if self.breaker.state is not Circuit.CLOSED:
            return
        stats = self._publisher.stats()
        if self._more_than_half(stats):
            try:
                async with asyncio.timeout(_RELIEF_S):
                    await self._publisher.durable(self.ticket - stats.in_flight // 2)
            except TimeoutError:
                # The window takes what comes meanwhile; when it is full, its records are dropped.
                return

    async def measure(self, every_s: float) -> None:
        """Sample how long records take to become durable; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_spans(), name="spans")
            group.create_task(self._measure(every_s), name="durability")

    async def _end_spans(self) -> None:
        while True:
            self._has_traced.clear()
            while self._traced:
                ticket, began, span = self._traced[0]
                await self._publisher.durable(ticket)
                self._traced.popleft()
                span.end()
                self._metrics.publish_seconds.observe(time.monotonic() - began, exemplar_of(span))
            await self._has_traced.wait()

    async def _measure(self, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        measured = 0
        while True:
            await asyncio.sleep(every_s)
            if self.ticket == measured:
                continue
            measured = self.ticket
            began = loop.time()
            await self._publisher.durable(measured)
            self._metrics.publish_seconds.observe(loop.time() - began)

    async def flush(self, timeout_s: float) -> int:
        """Wait until everything taken is durable; how many records still are not."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._publisher.flush()
        except (TimeoutError, BrokerClosed, BrokerFailed):
            return self._publisher.stats().in_flight
        return 0


def refusal_of(error: RecordRefused) -> str:
    """The reason under which a record that the log cannot hold is parked and counted."""
    return "record_too_large" if isinstance(error, RecordTooLarge) else "record_refused"


def _traced(active: Tracing, record: Record) -> tuple[Record, Span]:
    """The record with a trace begun, and the span of its publishing."""
    key = key_of(record.subject)
    seq = record.position.seq
    received = active.begin("ingest", key, seq, start_us=decode_raw(record.payload).ts_recv)
    span = active.begin("publish raw", key, seq, parent=received, kind=SpanKind.PRODUCER)
    received.end()
    return msgspec.structs.replace(record, headers=headers_of(span)), span
