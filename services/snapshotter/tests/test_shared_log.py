"""One of two snapshotters that share a log, which is given hardly any of a stream's records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from services.common.stores.ports import CheckpointReader, LatestReader, LatestRow
from services.common.stream import GroupSubscription, LogSpec, Message, Record
from services.common.stream.memory import MemoryBroker, MemoryServer
from services.common.subjects import StreamKey
from services.common.testing.tick_records import TickStream
from services.common.testing.waiting import eventually
from services.common.wire import Reset, Tick, decode_record
from services.snapshotter.archiver import Archiver
from services.snapshotter.batch import Batch
from services.snapshotter.intake.pump import Pump
from services.snapshotter.restore import Restorer
from services.snapshotter.s3 import ArchiveLog, Bucket
from services.snapshotter.stream import Stream, View
from services.snapshotter.testing import Platform

LOG = "tick.0"
RETENTION_S = 60.0
BOOK = StreamKey("coinbase", "book", "BTC-USD")


class Given(GroupSubscription):
    """Delivers what the test gives it; the rest of the log goes to somebody else."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Message]] = asyncio.Queue()

    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        return await self.batches.get()

    async def ack(self, messages: Sequence[Message]) -> None:
        """Nothing is delivered again here."""

    async def lag(self) -> int:
        return 0

    async def unread(self) -> int:
        return 0

    async def aclose(self) -> None:
        """Nothing is held."""


class Sharing(MemoryBroker):
    """Its group has another member, which is given whatever the test does not give this one."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.given = Given()

    async def group(
        self, log: str, group: str, *, max_pending: int = 8192, ack_wait_s: float = 30.0
    ) -> GroupSubscription:
        return self.given


class Stored(LatestReader, CheckpointReader):
    """What the other member stored: the whole book, which fits into a row here."""

    def __init__(self) -> None:
        self.row: LatestRow | None = None

    async def get(self, key: StreamKey) -> LatestRow | None:
        return self.row

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        return {BOOK: self.row} if self.row is not None else {}

    async def get_checkpoint(self, object_key: str) -> LatestRow | None:  # type: ignore[override]  # a row has all that is read of a checkpoint
        return self.row


async def joined(
    broker: Sharing,
    bucket: Bucket,
    stored: Stored,
    on_changed: Callable[[Stream], None],
    batch: Batch | None = None,
) -> Pump:
    archiver = Archiver(
        LOG,
        ArchiveLog(bucket, LOG),
        batch or Batch("ticks", period_s=60, max_bytes=10**6, max_records=1000),
        on_ok=lambda _name: None,
        on_error=lambda _error: None,
    )
    pump = Pump(
        LOG,
        broker,
        Restorer(stored, stored, 1, lambda _error: None),
        archiver,
        buffer_bytes=10**6,
        on_changed=on_changed,
        on_broker=lambda _error: None,
    )
    await pump.join("snapshotter", max_pending=100, ack_wait_s=30)
    return pump


async def test_past_lost_records_a_book_goes_on_from_what_the_other_member_stored(
    platform: Platform,
) -> None:
    now = 0.0
    server = MemoryServer(clock=lambda: now)
    changed: list[Stream] = []
    async with Sharing(server) as broker, Bucket(platform.aws) as bucket:
        await bucket.ensure(create=True)
        await broker.ensure([LogSpec(LOG, RETENTION_S)])
        publisher = await broker.publisher()
        book, stored = TickStream(BOOK, shard_count=1), Stored()
        theirs = View(BOOK)

        async def publish(record: Record) -> None:
            await publisher.send(record)
            await publisher.flush()
            made = decode_record(record.payload)
            assert isinstance(made, Tick | Reset)
            theirs.apply(made, await broker.seek(record.subject, record.position))

        await publish(book.tick())
        pump = await joined(broker, bucket, stored, changed.append)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(pump.run())
            await eventually(lambda: bool(changed))
            # All of it goes to the other member, and by and by leaves the log.
            for _ in range(20):
                now += 5.0
                await publish(book.tick())
            image = theirs.changed_book(0, 1)
            assert image is not None
            whole = image.encoded()
            stored.row = LatestRow(
                BOOK, whole.position, whole.cursor, 0, 1, whole.state, checkpoint="newest"
            )
            now += 5.0
            last = book.tick()
            await publish(last)
            message = await broker.last(book.subject)
            assert message is not None
            broker.given.batches.put_nowait([message])
            await eventually(lambda: pump.streams[BOOK].held == last.position)
            running.cancel()
    view = pump.streams[BOOK].view
    assert view is not None
    assert view.whole
    assert view.fold.book.bids() == theirs.fold.book.bids()
    assert view.fold.book.asks() == theirs.fold.book.asks()


async def test_no_record_is_passed_over_where_all_that_is_wanted_stands_before_a_known_place(
    platform: Platform,
) -> None:
    """A log that lost its end may get it back in another order, so that the place is too far."""
    async with Sharing(MemoryServer()) as broker, Bucket(platform.aws) as bucket:
        await bucket.ensure(create=True)
        await broker.ensure([LogSpec(LOG, RETENTION_S)])
        publisher = await broker.publisher()
        trades = TickStream(StreamKey("coinbase", "trades", "BTC-USD"), shard_count=1)
        batch = Batch("ticks", period_s=60, max_bytes=10**6, max_records=1000)

        async def publish(count: int) -> None:
            for _ in range(count):
                await publisher.send(trades.tick())
            await publisher.flush()

        await publish(5)
        pump = await joined(broker, bucket, Stored(), lambda _stream: None, batch)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(pump.run())
            await eventually(lambda: batch.records == 5)
            await publish(3)
            last = await broker.last(trades.subject)
            assert last is not None
            pump.streams[trades.key].cursor = await broker.seek(trades.subject, last.position)
            # What is between went to the other member.
            broker.given.batches.put_nowait([last])
            await eventually(lambda: pump.streams[trades.key].held == last.position)
            running.cancel()
    assert batch.records == 8
