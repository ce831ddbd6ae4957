"""Raw batches as the snapshotter archived them: in S3, or as files in a folder.

The objects of one lane (venue, channel, shard) are read by the time of their first records, and
what was written side by side is put in order. The lanes are merged by receive time; about a minute
and an object of each are in memory, and the next object is being fetched.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.common.stores.layout import RAW, ArchiveName, parse_archive_key
from services.common.stores.packed import unpacked
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import prefetch
from tools.replay.records import BadSource, Recorded, Selection, Source, read_line
from tools.replay.side_by_side import SideBySide

# Names tell the receive time of an object's first and last record; those between may lie a little
# outside, because trades that were refilled, or that waited for them, stand in the order of ids.
_SLACK_US = 60_000_000
_SUFFIX = ".jsonl.gz"


class Objects(ABC):
    """Where batches are."""

    @abstractmethod
    async def names(self, selection: Selection) -> list[ArchiveName]:
        """The raw batches that may hold something of the selection, in no order."""

    @abstractmethod
    async def get(self, key: str) -> bytes:
        """An object's content. Raises BadSource when it is gone, StoreUnavailable."""


class FolderObjects(Objects):
    """Files below a folder, or one file; names and folders as in the bucket, or any names."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def names(self, selection: Selection) -> list[ArchiveName]:
        return await asyncio.to_thread(self._names, selection)

    def _names(self, selection: Selection) -> list[ArchiveName]:
        files = [self._path] if self._path.is_file() else self._path.rglob(f"*{_SUFFIX}")
        named = (_name_of(str(file)) for file in files)
        return [name for name in named if name is not None and _overlaps(name, selection)]

    async def get(self, key: str) -> bytes:
        return await asyncio.to_thread(Path(key).read_bytes)


class S3Objects(Objects):
    """A bucket. Only the venues', channels' and days' folders that are wanted are listed."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def names(self, selection: Selection) -> list[ArchiveName]:
        found: list[ArchiveName] = []
        for venue in await self._store.folders(f"{RAW}/v=1/"):
            for channel in await self._store.folders(venue):
                if selection.channels and _value(channel) not in selection.channels:
                    continue
                for day in await self._store.folders(channel):
                    if not _day_overlaps(_value(day), selection):
                        continue
                    async for key in self._store.walk(day):
                        name = parse_archive_key(key)
                        if name is not None and _overlaps(name, selection):
                            found.append(name)
        return found

    async def get(self, key: str) -> bytes:
        content = await self._store.get(key)
        if content is None:
            raise BadSource(f"{key} is gone")
        return content


class ArchiveSource(Source):
    """See the module. Listing is done once, when `span` or `records` is first asked."""

    def __init__(self, objects: Objects, selection: Selection) -> None:
        self._objects = objects
        self._selection = selection
        self._lanes: list[list[ArchiveName]] | None = None

    async def span(self) -> tuple[int, int] | None:
        lanes = await self._listed()
        if not lanes:
            return None
        first = min(name.first for names in lanes for name in names)
        last = max(name.last for names in lanes for name in names)
        wanted = self._selection
        first = first if wanted.start is None else max(first, wanted.start)
        last = last if wanted.end is None else min(last, wanted.end)
        return first, max(first, last)

    async def records(self) -> AsyncGenerator[Recorded]:
        lanes = [self._lane(names) for names in await self._listed()]
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(contextlib.aclosing(each)) for each in lanes]
            async for recorded in _merged(opened):
                yield recorded

    async def _listed(self) -> list[list[ArchiveName]]:
        if self._lanes is None:
            lanes: dict[str, list[ArchiveName]] = {}
            for name in await self._objects.names(self._selection):
                lanes.setdefault(name.lane, []).append(name)
            for names in lanes.values():
                names.sort(key=lambda name: (name.first, name.name))
            self._lanes = [lanes[lane] for lane in sorted(lanes)]
        return self._lanes

    async def _lane(self, names: Sequence[ArchiveName]) -> AsyncGenerator[Recorded]:
        order, following = SideBySide(), iter(names[1:])
        async with contextlib.aclosing(prefetch(_each(names), self._load, 1)) as loaded:
            async for records in loaded:
                order.add(records)
                # The name of a file of another form tells no time: its files follow each other.
                first = name.first if (name := next(following, None)) is not None else 0
                for recorded in order.take(first - _SLACK_US if first else None):
                    yield recorded

    async def _load(self, name: ArchiveName) -> list[Recorded]:
        content = await self._objects.get(name.key)
        return await asyncio.to_thread(self._read, name.key, content)

    def _read(self, key: str, content: bytes) -> list[Recorded]:
        try:
            lines = unpacked(content).splitlines()
        except (OSError, EOFError, zlib.error) as error:
            raise BadSource(f"{key} is not gzip: {error}") from error
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                recorded = read_line(line)
            except BadSource as error:
                raise BadSource(f"{key}, line {number}: {error}") from error
            if self._selection.wants(recorded):
                records.append(recorded)
        return records


async def _each[T](items: Iterable[T]) -> AsyncGenerator[T]:
    for item in items:
        yield item


async def _merged(lanes: Sequence[AsyncIterator[Recorded]]) -> AsyncIterator[Recorded]:
    """All lanes by receive time, each lane in its own order."""
    waiting: list[tuple[int, int, Recorded]] = []
    for number, lane in enumerate(lanes):
        if (first := await anext(lane, None)) is not None:
            waiting.append((first.ts, number, first))
    heapq.heapify(waiting)
    while waiting:
        due, number, recorded = waiting[0]
        yield recorded
        following = await anext(lanes[number], None)
        if following is None:
            heapq.heappop(waiting)
        else:
            # A record that was received earlier but recorded later keeps its place in the lane.
            heapq.heapreplace(waiting, (max(due, following.ts), number, following))


def _name_of(path: str) -> ArchiveName | None:
    """A file's name as in the bucket; one of another form stands in a lane of its folder."""
    name = parse_archive_key(path)
    if name is None:
        folder, _, file = path.rpartition("/")
        return ArchiveName(path, folder, "", file, 0, 2**62)
    return name if f"{RAW}/v=1/" in name.lane else None


def _value(folder: str) -> str:
    """`BTC` of `.../product=BTC/`."""
    return folder.rstrip("/").rpartition("=")[2]


def _overlaps(name: ArchiveName, selection: Selection) -> bool:
    return (selection.start is None or name.last + _SLACK_US >= selection.start) and (
        selection.end is None or name.first - _SLACK_US < selection.end
    )


def _day_overlaps(day: str, selection: Selection) -> bool:
    """Dates as text compare as dates do."""
    return (selection.start is None or day >= _date(selection.start - _SLACK_US)) and (
        selection.end is None or day <= _date(selection.end + _SLACK_US)
    )


def _date(ts: int) -> str:
    return datetime.fromtimestamp(ts // 1_000_000, UTC).strftime("%Y-%m-%d")
