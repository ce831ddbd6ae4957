"""Archived ticks from S3, by the archive's index; the next objects while one is worked on.

async for payload in S3ArchiveReader(store).read(key, shard, after):
    ...
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog

from services.common.errors import StoreUnavailable
from services.common.stores.aws import S3
from services.common.stores.index import BadCommit, Commit, unpack_commit
from services.common.stores.layout import commit_key, index_prefix, pending_key
from services.common.stores.packed import unpacked
from services.common.stores.ports import ArchiveReader
from services.common.stores.s3 import S3Store
from services.common.stream import Position
from services.common.subjects import StreamKey, tick_log
from services.common.wire import UNREADABLE, decode_head

log = structlog.get_logger(__name__)


async def prefetch[T, R](
    items: AsyncGenerator[T], load: Callable[[T], Awaitable[R]], depth: int
) -> AsyncGenerator[R]:
    """`load(item)` for each item, in order; up to `depth` loads run before the consumer asks.

    Close it (`contextlib.aclosing`) when it is not read to its end: that ends the loads, and
    closes `items`. What `items` or a load raises is raised where its result would have come.
    """
    room = asyncio.Semaphore(depth)
    # What comes next, in order; None behind the last. Errors travel in the futures: a task that
    # failed would end its group, and so cancel whoever consumes this, wherever that is by then.
    coming: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    ended: BaseException | None = None

    async def fetch(item: T, loaded: asyncio.Future[R]) -> None:
        try:
            loaded.set_result(await load(item))
        except Exception as error:  # noqa: BLE001 - raised where the result is waited for
            loaded.set_exception(error)

    async def start_all(group: asyncio.TaskGroup) -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await room.acquire()
                    loaded: asyncio.Future[R] = loop.create_future()
                    coming.put_nowait(loaded)
                    tasks.append(group.create_task(fetch(item, loaded)))
        except Exception as error:  # noqa: BLE001 - raised behind the last result
            failed: asyncio.Future[R] = loop.create_future()
            failed.set_exception(error)
            coming.put_nowait(failed)
        coming.put_nowait(None)

    tasks: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:
        tasks.append(group.create_task(start_all(group)))
        try:
            while (loaded := await coming.get()) is not None:
                result = await loaded
                room.release()
                yield result
        except (Exception, GeneratorExit) as error:  # noqa: BLE001 - raised again, by itself
            # Raised in here it would come out as a group's.
            ended = error
            for task in tasks:
                task.cancel()
    while not coming.empty():
        left = coming.get_nowait()
        if left is not None and left.done():
            # Nobody asks for it any more, and nobody is to be told so.
            left.exception()
    if ended is not None:
        raise ended


# Archive objects that are fetched while an earlier one is read.
OBJECTS_AHEAD = 2


class ArchiveIndex:
    """Finds commits of a log. Commits never change, so what was read once is kept (a few)."""

    def __init__(self, store: S3Store, log_name: str) -> None:
        self._store = store
        self._log = log_name

    async def newest(self) -> Commit | None:
        """The last finished commit, in at most three requests."""
        pending = await self.pending()
        if pending is None:
            return None
        return await self.commit(pending.number) or await self.commit(pending.number - 1)

    async def pending(self) -> Commit | None:
        """The commit that was begun last; whether it was finished is not said."""
        return self._unpack(await self._store.get(pending_key(self._log)))

    async def commit(self, number: int) -> Commit | None:
        return self._unpack(await self._store.get(commit_key(self._log, number)))

    async def oldest_number(self) -> int | None:
        """Number of the oldest commit that a lifecycle rule has left."""
        prefix = index_prefix(self._log)
        for key in await self._store.keys(prefix, limit=1):
            name = key.removeprefix(prefix).removesuffix(".json.gz")
            return int(name) if name.isdecimal() else None
        return None

    async def find(self, stream: str, after: Position, newest: Commit) -> Commit | None:
        """The oldest commit that reaches beyond `after`: O(log n) requests."""
        _, found = await self._bisect(newest, lambda commit: commit.reaches(stream, after))
        return found

    async def before(self, ts: int, newest: Commit) -> Commit | None:
        """The last commit made before `ts` (microseconds): O(log n) requests."""
        found, _ = await self._bisect(newest, lambda commit: commit.ts >= ts)
        return found

    async def _bisect(
        self, newest: Commit, reached: Callable[[Commit], bool]
    ) -> tuple[Commit | None, Commit | None]:
        """The last commit that has not `reached`, and the first that has.

        One that a lifecycle rule took has not.
        """
        if not reached(newest):
            return newest, None
        low = await self.oldest_number()
        if low is None:
            return None, None
        before, first = None, newest
        while low < first.number:
            middle = (low + first.number) // 2
            commit = await self.commit(middle)
            if commit is not None and reached(commit):
                first = commit
            else:
                before = commit if commit is not None else before
                low = middle + 1
        return before, first

    def _unpack(self, stored: bytes | None) -> Commit | None:
        if stored is None:
            return None
        try:
            return unpack_commit(stored)
        except BadCommit as error:
            raise StoreUnavailable(S3, f"index of {self._log}: {error}") from error


class S3ArchiveReader(ArchiveReader):
    """Reads by the archive's index; nothing is listed but the index's oldest entry.

    While one object's records are taken, the next ones are on their way: `OBJECTS_AHEAD` of them,
    each at most a batch of `ARCHIVE_MAX_BYTES`.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def read(self, key: StreamKey, shard: int, after: Position) -> AsyncGenerator[bytes]:
        async def load(object_key: str) -> list[tuple[Position, bytes]]:
            return await self._records(object_key, key)

        keys = self._object_keys(key, shard, after)
        async with contextlib.aclosing(prefetch(keys, load, OBJECTS_AHEAD)) as objects:
            async for records in objects:
                for position, payload in records:
                    if position > after:
                        after = position
                        yield payload

    async def reached(self, key: StreamKey, shard: int, ts: int) -> Position | None:
        index = ArchiveIndex(self._store, tick_log(shard))
        newest = await index.newest()
        commit = await index.before(ts, newest) if newest is not None else None
        head = commit.heads.get(str(key)) if commit is not None else None
        return head.position if head is not None else None

    async def _object_keys(
        self, key: StreamKey, shard: int, after: Position
    ) -> AsyncGenerator[str]:
        """The objects that hold records of the stream beyond `after`, in order."""
        index = ArchiveIndex(self._store, tick_log(shard))
        stream = str(key)
        newest = await index.newest()
        if newest is None:
            return
        commit = await index.find(stream, after, newest)
        while commit is not None:
            for object_key in commit.objects_of(stream, after):
                yield object_key
            head = commit.heads.get(stream)
            after = max(after, head.position) if head is not None else after
            following = await index.commit(commit.number + 1)
            if following is not None and not following.objects_of(stream, after):
                # Nothing for this stream here: jump to where its next record is.
                following = await index.find(stream, after, newest)
            commit = following

    async def _records(self, object_key: str, key: StreamKey) -> list[tuple[Position, bytes]]:
        stored = await self._store.get(object_key)
        if stored is None:
            log.warning("archive_object_gone", key=object_key)
            return []
        try:
            if not stored:
                raise EOFError("it is empty")
            return await asyncio.to_thread(_lines_of, stored, object_key, key)
        except (OSError, EOFError, zlib.error) as error:
            # What it holds is not known, which is not the same as that there is nothing.
            raise StoreUnavailable(S3, f"{object_key} is no archive object: {error!r}") from error


def _lines_of(stored: bytes, object_key: str, key: StreamKey) -> list[tuple[Position, bytes]]:
    """One stream's records in an object."""
    found: list[tuple[Position, bytes]] = []
    mine = f'"{key.product}"'.encode()
    for line in unpacked(stored).splitlines():
        # A substring test is far cheaper than a decode, and most lines are other products'.
        if mine not in line:
            continue
        try:
            head = decode_head(line)
        except UNREADABLE:
            log.warning("archive_line_unreadable", key=object_key)
            continue
        if (head.venue, head.channel, head.product) == key:
            found.append((Position(head.epoch, head.seq, head.sub), line))
    return found
