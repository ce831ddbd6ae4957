"""The shell around `Normalizer`: takes raw records, publishes ticks, acknowledges what is durable.

While the ticks of one batch are on their way to the broker's disk the next batch is worked on;
`_OUTSTANDING` batches may wait for that. A raw record is acknowledged only after its ticks are
durable, so whatever happens in between it is delivered again, and gives the same bytes again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
from opentelemetry.trace import Span, SpanKind

from services.common.clock import now_us
from services.common.errors import InvalidSubject, PositionLost, RecordRefused, RecordTooLarge
from services.common.observability import tracing
from services.common.observability.tracing import TRACEPARENT, exemplar_of, headers_of
from services.common.runtime import Stop
from services.common.sharding import shard_of
from services.common.stream import Broker, GroupSubscription, Message, Publisher, Record
from services.common.subjects import PULSE, RAW_LOG, StreamKey, key_of
from services.common.wire import RawRecord
from services.normalizer.chain import RAW_LOG_BREAK, ChainVerdict
from services.normalizer.metrics import Metrics
from services.normalizer.normalize import INVALID_MESSAGE, Normalizer
from services.normalizer.predecessor import predecessor
from services.normalizer.refused_records import RefusedRecords
from services.normalizer.restore import Heads, patiently
from services.normalizer.stand_in import too_large
from services.normalizer.venues.mapping import Unmappable

log = structlog.get_logger(__name__)

_OUTSTANDING = 8
# What a killed normalizer had taken is delivered again after this. A busy stream goes on at once,
# since its next record is proven against the raw log; only a quiet one's last records wait.
_ACK_WAIT_S = 5.0
_PAGE = 256
_TRACE_HEADERS = (TRACEPARENT, "tracestate")


class _Batch(NamedTuple):
    messages: Sequence[Message]
    ticket: int
    taken_at: float
    spans: Sequence[Span]


@dataclass(eq=False)
class Pipeline:
    """One member of a group on the raw log, working on some shards."""

    _broker: Broker  # open; the raw, tick and invalid logs exist
    _metrics: Metrics
    group: str  # the consumer group; members of one group share the work, two groups each see all
    shard_count: int
    shards: frozenset[int]  # those this process works on; records of others are passed over
    max_batch: int = 512  # raw records taken at a time
    max_pending: int = 8192  # raw records taken and not acknowledged, at most
    clock: Callable[[], float] = time.monotonic  # monotonic seconds
    # Of what was given to the publisher since the last batch.
    _subjects: list[str] = field(default_factory=list)
    _member: GroupSubscription | None = None
    # Of traced records that were given to the publisher since the last batch.
    _spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._normalizer = Normalizer(self.shard_count)
        self._heads = Heads(self._broker, self._normalizer, self.clock)
        self._refused = RefusedRecords(self._broker, self._metrics)
        # Opened by `run`.
        self._publisher: Publisher
        self._ticket = 0
        self._joins = 0
        # For whoever watches: records published, the newest `ts_recv` seen, the last ack.
        self.published = 0
        self.newest_ts_recv = 0
        self.worked_at = self.clock()

    async def run(self, stop: Stop) -> None:
        """Work until `stop`; then finish and acknowledge what was taken.

        Raises:
            BrokerClosed: (in a group) the broker was closed underneath.
            BrokerFailed: (in a group) the publisher or the group broke.
            LogWentBack: (in a group) the tick log lost what was to be built upon. What is not
                acknowledged is delivered to another pipeline, which finds what is missing in the
                raw log.
        """
        publisher = self._publisher = await patiently(
            lambda: self._broker.publisher(on_refused=self._on_refused, predecessor=predecessor)
        )
        member = await patiently(
            lambda: self._broker.group(
                RAW_LOG, self.group, max_pending=self.max_pending, ack_wait_s=_ACK_WAIT_S
            )
        )
        self._member = member
        self._joins = member.joins
        self._ticket = 0
        log.info("consuming", group=self.group, shards=sorted(self.shards))
        finished: asyncio.Queue[_Batch | None] = asyncio.Queue(maxsize=_OUTSTANDING)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acknowledge(member, finished), name="ack")
                stopping = tasks.create_task(stop.wait(), name="stopping")
                while not stop.requested:
                    taking = tasks.create_task(member.next_batch(self.max_batch), name="take")
                    await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
                    if not taking.done():
                        taking.cancel()
                        break
                    batch = taking.result()
                    if member.joins != self._joins:
                        self._joins = member.joins
                        self._heads.forget()
                    taken_at = self.clock()
                    await self._work_on(batch)
                    spans, self._spans = self._spans, []
                    await finished.put(_Batch(batch, self._ticket, taken_at, spans))
                await finished.put(None)
        finally:
            self._member = None
            await member.aclose()
            await publisher.aclose()
            await self._refused.aclose()

    @property
    def joined(self) -> bool:
        """Whether it takes records from its group."""
        return self._member is not None

    async def lag(self) -> int:
        """Raw records of the log that the group has not acknowledged.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        return 0 if self._member is None else await self._member.lag()

    async def _acknowledge(
        self, member: GroupSubscription, finished: asyncio.Queue[_Batch | None]
    ) -> None:
        while (batch := await finished.get()) is not None:
            await self._publisher.durable(batch.ticket)
            # What the log refused of it is parked before it counts as done.
            await self._refused.flush()
            for span in batch.spans:
                span.end()
            exemplar = exemplar_of(batch.spans[0]) if batch.spans else None
            self._metrics.publish_seconds.observe(self.clock() - batch.taken_at, exemplar)
            await patiently(partial(member.ack, batch.messages))
            self.worked_at = self.clock()

    async def _work_on(self, batch: Sequence[Message]) -> None:
        streams = self._own_streams(batch)
        unknown = {
            key for key in streams.values() if key.channel != PULSE and self._heads.stale(key)
        }
        if unknown:
            await self._heads.refresh(unknown)
        fast_path = self._normalizer.fast_path
        fast_path.newest_ts_recv = self.newest_ts_recv
        take, offer, published = fast_path.normalize, self._publisher.offer, self._subjects
        for message in batch:
            key = streams.get(message.subject)
            if key is None:
                continue
            # Few records have any.
            headers = _trace_context(message) if message.headers else None
            if headers is None or tracing.ACTIVE is None:
                record = take(message, headers)
                if record is not None:
                    try:
                        ticket = offer(record)
                    except RecordRefused:
                        ticket = None
                    if ticket is None:
                        await self._publish(record)
                    else:
                        # `_publish` without a coroutine, as there is room nearly always.
                        self._ticket = ticket
                        published.append(record.subject)
                    continue
            await self._work_plainly_on(key, message)
        self.newest_ts_recv = fast_path.newest_ts_recv
        await self._refused.flush()
        self.published += len(self._subjects)
        self._metrics.published(self._subjects, self.shard_count)
        self._subjects.clear()

    def _own_streams(self, batch: Sequence[Message]) -> dict[str, StreamKey]:
        """The batch's streams by subject, without those another shard's normalizer works on."""
        streams: dict[str, StreamKey] = {}
        for subject in dict.fromkeys([message.subject for message in batch]):
            try:
                key = key_of(subject)
            except InvalidSubject as error:
                refusal = Unmappable("bad_subject", str(error))
                for message in batch:
                    if message.subject == subject:
                        self._refused.record(message, refusal)
                continue
            # A pulse is of products of any shard.
            if key.channel == PULSE or shard_of(key.product, self.shard_count) in self.shards:
                streams[subject] = key
        return streams

    async def _work_plainly_on(self, key: StreamKey, message: Message) -> None:
        pulses: list[Record] = []
        try:
            raw = self._normalizer.read(message.subject, message.position, message.payload)
            self._normalizer.fast_path.newest_ts_recv = raw.ts_recv
            if raw.kind == "pulse":
                pulses = self._normalizer.pulses(key, raw, self.shards)
        except Unmappable as error:
            # Its place in the stream stays empty; the next record's `prev` brings that to light.
            self._refused.record(message, error)
            return
        if raw.kind == "pulse":
            # Behind all that was taken before it, so that its age is that of this way.
            for record in pulses:
                self._ticket = await self._publisher.send(record)
            return
        verdict = self._normalizer.chain.judge(key, raw)
        if verdict is ChainVerdict.UNPROVEN:
            await self._catch_up(key, message, raw)
            verdict = self._normalizer.chain.judge(key, raw)
        if verdict is ChainVerdict.DUPLICATE:
            self._metrics.duplicates.inc()
        else:
            await self._normalize(key, message, raw)

    async def _normalize(self, key: StreamKey, message: Message, raw: RawRecord) -> None:
        began = now_us()
        output = self._normalizer.normalize(key, raw)
        asks = {ask.cause: ask for ask in output.asks}
        for error in output.refused:
            self._refused.record(message, error, asks.pop(INVALID_MESSAGE, None))
        for ask in asks.values():
            self._refused.missed(message, ask)
        if len(output.records) > 1:
            self._metrics.gap(key, RAW_LOG_BREAK)
            log.warning("raw_log_break", stream=str(key), seq=raw.seq, prev=raw.prev)
        headers = _trace_context(message)
        if tracing.ACTIVE is not None and headers is not None:
            shard = shard_of(key.product, self.shard_count)
            begin = partial(tracing.ACTIVE.begin, key=key, seq=raw.seq, shard=shard)
            done = begin("normalize", parent=headers, kind=SpanKind.CONSUMER, start_us=began)
            span = begin("publish tick", parent=done, kind=SpanKind.PRODUCER)
            done.end()
            headers = headers_of(span)
            self._spans.append(span)
        for record in output.records:
            await self._publish(msgspec.structs.replace(record, headers=headers))

    async def _publish(self, record: Record) -> None:
        try:
            ticket = self._publisher.offer(record)
        except RecordRefused as error:
            self._refused.unstorable(record, error)
            if not isinstance(error, RecordTooLarge):
                # Nothing can stand at its place; the next record's `prev` brings that to light.
                return
            ticket = None
            record = msgspec.structs.replace(record, payload=too_large(record.payload))
        self._subjects.append(record.subject)
        self._ticket = await self._publisher.send(record) if ticket is None else ticket

    def _on_refused(self, record: Record, error: RecordRefused) -> Record:
        """The log will never hold a tick that was taken: what stands in its place."""
        self._refused.unstorable(record, error)
        return msgspec.structs.replace(record, payload=too_large(record.payload))

    async def _catch_up(self, key: StreamKey, current: Message, raw: RawRecord) -> None:
        """Feed what the raw log holds between the held position and the current record."""
        await self._heads.refresh((key,))
        if self._normalizer.chain.judge(key, raw) is not ChainVerdict.UNPROVEN:
            return
        held = self._normalizer.chain.held(key)
        subject = current.subject
        if held is None:
            first = await patiently(lambda: self._broker.first(subject))
            if first is None or first.position >= current.position:
                return
        self._metrics.catch_ups.inc()
        cursor = await self._cursor_after(key, subject)
        while True:
            try:
                page = await patiently(partial(self._broker.read, subject, cursor, limit=_PAGE))
            except PositionLost:
                # Retention took it in this moment; go on at the oldest record there is.
                cursor = await self._cursor_after(key, subject)
                continue
            for message in page.messages:
                if message.position >= current.position:
                    return
                try:
                    found = self._normalizer.read(subject, message.position, message.payload)
                except Unmappable:
                    # Parked by whoever the group delivers it to.
                    continue
                if self._normalizer.chain.judge(key, found) is not ChainVerdict.DUPLICATE:
                    await self._normalize(key, message, found)
            if page.at_head:
                return
            cursor = page.cursor

    async def _cursor_after(self, key: StreamKey, subject: str) -> str:
        held = self._normalizer.chain.held(key)
        if held is None:
            return ""
        return await patiently(lambda: self._broker.seek(subject, held))


def _trace_context(message: Message) -> dict[str, str] | None:
    """The headers that carry a trace from hop to hop."""
    headers = message.headers
    return {name: headers[name] for name in _TRACE_HEADERS if name in headers} or None
