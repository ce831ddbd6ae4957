"""Takes one log's records from the group, in order and once, into folds and the archive."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from opentelemetry.trace import SpanKind

from services.common.domain.book import BadLevel
from services.common.errors import BrokerUnavailable, PositionLost
from services.common.observability import tracing
from services.common.observability.tracing import TRACEPARENT
from services.common.runtime import patiently
from services.common.stores.index import Head
from services.common.stream import Broker, GroupSubscription, Message, Page, Position
from services.common.subjects import RAW_LOG, StreamKey, is_pulse, key_of
from services.common.wire import UNREADABLE, Reset, Tick
from services.snapshotter import metrics
from services.snapshotter.archiver import Archiver
from services.snapshotter.intake.bound import IntakeBound
from services.snapshotter.intake.delivered import Delivered, read_raw, read_tick, stream_of
from services.snapshotter.restore import Restorer
from services.snapshotter.stream import DeliveryVerdict, Stream, View

log = structlog.get_logger(__name__)

# Book resets are megabytes each, so few records are asked for at once.
_BATCH = 256
_PAGE = 256


class Pump:
    """One log's intake."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        restorer: Restorer,
        archiver: Archiver,
        *,
        buffer_bytes: int,  # nothing more is taken while this much is not stored
        on_changed: Callable[[Stream], None],  # told of a stream whose view changed
        on_broker: Callable[[BrokerUnavailable], None],  # told why the broker did not answer
    ) -> None:
        self.name = name
        self.streams: dict[StreamKey, Stream] = {}
        self.archiver = archiver
        archiver.on_archived = self._archived
        self._broker = broker
        self._restorer = restorer
        self._on_changed = on_changed
        self._on_broker = on_broker
        self._shard = None if name == RAW_LOG else int(name.removeprefix("tick."))
        self._read = read_raw if self._shard is None else read_tick
        self._subscription: GroupSubscription | None = None
        self._heads: Mapping[str, Head] = {}
        # Records taken, for whoever watches whether there is progress.
        self.taken = 0
        # Deliveries of streams that are being restored, in order.
        self._waiting: dict[StreamKey, deque[Message]] = {}
        self.bound = IntakeBound(name, buffer_bytes, metrics.HELD_BYTES.labels(name).set)

    async def join(self, group: str, *, max_pending: int, ack_wait_s: float) -> None:
        """Become a member of the group; waits for S3 and the broker as long as it takes."""
        self._heads = await self.archiver.restore()
        self._subscription = await patiently(
            lambda: self._broker.group(
                self.name, group, max_pending=max_pending, ack_wait_s=ack_wait_s
            ),
            BrokerUnavailable,
            self._on_broker,
        )

    async def aclose(self) -> None:
        """Leave the group; what is not acked goes to the next member."""
        if self._subscription is not None:
            await self._subscription.aclose()

    async def run(self) -> None:
        """Take records until cancelled. Cancelling it between two records loses nothing."""
        subscription = self._subscription
        if subscription is None:
            raise RuntimeError("join first")
        await self._read_what_is_there()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self.bound.wait_for_room()
                batch = await subscription.next_batch(_BATCH)
                self.taken += len(batch)
                if unseen := self._unseen([message.subject for message in batch]):
                    tasks.create_task(self._restore(unseen), name=f"restore:{self.name}")
                done: list[Message] = []
                for message in batch:
                    if is_pulse(message.subject):
                        # It says nothing of the market, and nothing once it is old.
                        done.append(message)
                        continue
                    if self.bound.full:
                        # A batch may hold many large books, and the bound holds for each record.
                        await self._ack(done)
                        done = []
                        await self.bound.wait_for_room()
                    key = stream_of(message.subject)
                    waiting = None if key is None else self._waiting.get(key)
                    if key is None:
                        # Somebody else's: it belongs to no stream, and is neither kept nor again
                        # delivered.
                        metrics.INVALID.labels("bad_subject").inc()
                        done.append(message)
                    elif waiting is not None:
                        waiting.append(message)
                        self.bound.waiting += len(message.payload)
                    elif not await self._deliver(message):
                        done.append(message)
                self.bound.show()
                await self._ack(done)

    @property
    def joined(self) -> bool:
        """Whether it is a member of its group."""
        return self._subscription is not None

    async def waiting(self) -> int:
        """How many records of the log nobody was given yet; 0 while the intake is paused.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        if self._subscription is None or self.bound.paused:
            return 0
        return await self._subscription.unread()

    async def settle(self, streams: Iterable[Stream]) -> None:
        """Ack what is stored by now."""
        done: list[Message] = []
        for stream in streams:
            done.extend(stream.pop_settled())
        self.bound.unacked -= sum(len(message.payload) for message in done)
        self.bound.changed()
        await self._ack(done)

    async def _archived(self, heads: Mapping[str, Head], refilled: int) -> None:
        """A batch was written that ends at `heads`."""
        self.bound.refilled -= refilled
        touched = []
        for text, head in heads.items():
            stream = self.streams[StreamKey.parse(text)]
            stream.archived = head.position
            touched.append(stream)
        await self.settle(touched)

    async def _ack(self, messages: Sequence[Message]) -> None:
        if not messages or self._subscription is None:
            return
        try:
            await self._subscription.ack(messages)
        except BrokerUnavailable as error:
            # They come again after ack_wait, are known to be stored, and are acked then.
            self._on_broker(error)

    # ---------------------------------------------------------------- taking

    def _unseen(self, subjects: Iterable[str]) -> dict[StreamKey, str]:
        """Streams met for the first time; what is delivered of them waits from now on."""
        unseen = {
            key: subject
            for subject in subjects
            if not is_pulse(subject)
            and (key := stream_of(subject)) is not None
            and key not in self.streams
            and key not in self._waiting
        }
        self._waiting.update((key, deque()) for key in unseen)
        return unseen

    async def _restore(self, unseen: Mapping[StreamKey, str]) -> None:
        """Restore these streams, then take what came for them meanwhile.

        Runs beside the intake: while a store is away, streams that are known do not wait for those
        that are not.
        """
        for stream in await self._restorer.restore(unseen, self._shard, self._heads):
            self.streams[stream.key] = stream
            waiting = self._waiting[stream.key]
            done: list[Message] = []
            while waiting:
                message = waiting.popleft()
                self.bound.waiting -= len(message.payload)
                if not await self._deliver(message):
                    done.append(message)
            del self._waiting[stream.key]
            self.bound.changed()
            await self._ack(done)

    async def _deliver(self, message: Message) -> bool:
        """Take a delivery; False when it can be acked at once."""
        stream = self.streams[key_of(message.subject)]
        position = message.position
        try:
            seen = self._read(message.payload)
        except UNREADABLE:
            # Skipped in its place, so that what follows is not mistaken for following directly.
            if stream.judge(position, None, None) is not DeliveryVerdict.HELD:
                await self._catch_up(stream, message)
            return False
        verdict = stream.judge(position, seen.prev, seen.prev_sub)
        if verdict is DeliveryVerdict.NEXT:
            self._hold(stream, message, seen, refilled=False)
        elif verdict is DeliveryVerdict.UNPROVEN:
            await self._catch_up(stream, message)
        if stream.settled(position):
            return False
        self.bound.unacked += stream.deliver(message)
        return True

    async def _read_what_is_there(self) -> None:
        """Bring every stream to the log's head without waiting for deliveries.

        What a crashed member held is delivered again only after `ack_wait`.
        """
        subjects = await patiently(
            lambda: self._broker.subjects(self.name), BrokerUnavailable, self._on_broker
        )
        await self._restore(self._unseen(subjects))
        for stream in list(self.streams.values()):
            await self._catch_up(stream, None)

    async def _catch_up(self, stream: Stream, message: Message | None) -> None:
        """Read the log from what is held through `message` (None: its head), and take it all."""
        through = message.position if message is not None else None
        at_head = sought = False

        async def read() -> Page:
            return await self._broker.read(stream.subject, stream.cursor, limit=_PAGE)

        while not at_head and (through is None or stream.held is None or stream.held < through):
            await self.bound.wait_for_room_to_restore()
            try:
                page = await patiently(read, BrokerUnavailable, self._on_broker)
            except PositionLost as error:
                log.warning("records_lost", stream=str(stream.key), reason=str(error))
                metrics.CATCH_UPS.labels("lost").inc()
                stream.cursor = ""
                await self._take_over(stream)
                continue
            if stream.held is not None and not sought and self._skips(stream, page, through):
                # A log that lost its end may hold other records at that place by now.
                sought = True
                stream.cursor = await self._place_of(stream.subject, stream.held)
                continue
            at_head = page.at_head
            if not page.messages:
                stream.cursor = page.cursor
            for found in page.messages:
                if stream.held is None or found.position > stream.held:
                    self._read_and_hold(stream, found, refilled=found.position != through)
                elif page.messages[-1] is found:
                    # All of this page was held: it must not be read again.
                    stream.cursor = page.cursor
                if through is not None and found.position >= through:
                    break
        if message is not None and (stream.held is None or stream.held < message.position):
            # Retention took it out of the log after it was delivered.
            self._read_and_hold(stream, message, refilled=False)
        metrics.CATCH_UPS.labels("read").inc()

    def _skips(self, stream: Stream, page: Page, through: Position | None) -> bool:
        """Whether what was read does not prove to follow what is held, or misses what is wanted."""
        held = stream.held
        new = (found for found in page.messages if held is None or found.position > held)
        if (first := next(new, None)) is None:
            return page.at_head and through is not None
        try:
            seen = self._read(first.payload)
        except UNREADABLE:
            return True
        return stream.judge(first.position, seen.prev, seen.prev_sub) is not DeliveryVerdict.NEXT

    async def _place_of(self, subject: str, held: Position) -> str:
        """The cursor behind what is held, by its position."""

        async def seek() -> str:
            return await self._broker.seek(subject, held)

        return await patiently(seek, BrokerUnavailable, self._on_broker)

    async def _take_over(self, stream: Stream) -> None:
        """Past records that are lost: go on from what another member may have stored behind them.

        One that shares the log and is given no record of a stream for as long as the log keeps them
        has only this to make a whole book of again.
        """
        if stream.view is not None:
            (stored,) = await self._restorer.restore(
                {stream.key: stream.subject}, self._shard, self._heads
            )
            if stream.take_over(stored.view):
                log.info("stored_state_taken_over", stream=str(stream.key))

    def _read_and_hold(self, stream: Stream, message: Message, *, refilled: bool) -> None:
        try:
            seen = self._read(message.payload)
        except UNREADABLE as error:
            log.warning(
                "record_unreadable",
                stream=str(stream.key),
                position=message.position,
                reason=str(error),
            )
            metrics.INVALID.labels("undecodable").inc()
            stream.advance(message.position, message.cursor)
            return
        self._hold(stream, message, seen, refilled=refilled)

    def _hold(self, stream: Stream, message: Message, seen: Delivered, *, refilled: bool) -> None:
        self.taken += 1
        position = message.position
        stream.advance(position, message.cursor)
        if stream.wants_archived(position):
            stream.batched = position
            self.archiver.add(
                stream.key,
                stream.shard,
                Head(position, message.cursor),
                seen.ts,
                message.payload,
                refilled=refilled,
            )
            if refilled:
                self.bound.refilled += len(message.payload)
        if stream.view is None or seen.record is None:
            return
        if tracing.ACTIVE is not None and TRACEPARENT in (headers := message.headers):
            span = tracing.ACTIVE.begin(
                "fold",
                stream.key,
                position.seq,
                parent=headers,
                kind=SpanKind.CONSUMER,
                shard=stream.shard,
            )
            with span:
                self._fold(stream, stream.view, seen.record, message.cursor)
            stream.trace = span
        else:
            self._fold(stream, stream.view, seen.record, message.cursor)

    def _fold(self, stream: Stream, view: View, record: Tick | Reset, cursor: str) -> None:
        was_whole = view.whole
        try:
            changed = view.apply(record, cursor)
        except (BadLevel, *UNREADABLE) as error:
            log.warning("record_unfoldable", stream=str(stream.key), reason=str(error))
            metrics.INVALID.labels("unfoldable").inc()
            changed = False
        if view.whole != was_whole:
            log.info("book_wholeness_changed", stream=str(stream.key), whole=view.whole)
        if changed:
            self._on_changed(stream)
