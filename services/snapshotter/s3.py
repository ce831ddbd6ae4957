"""Writes archive batches and book checkpoints to S3."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from services.common.clock import now_us
from services.common.errors import StoreError, StoreMissing
from services.common.settings import AwsSettings
from services.common.stores.aws import OBJECT_WRITER, S3, Limits, answered, translated
from services.common.stores.index import (
    Commit,
    Head,
    IndexedObject,
    archived_heads,
    next_commit,
    pack_commit,
    settle_pending,
)
from services.common.stores.layout import (
    checkpoint_key,
    checkpoint_prefix,
    commit_key,
    pack_checkpoint,
    pending_key,
)
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import ArchiveIndex
from services.common.subjects import StreamKey
from services.snapshotter.batch import SealedBatch, SealedObject
from services.snapshotter.stream import BookImage

log = structlog.get_logger(__name__)

_JSONL = "application/gzip"
_INDEX = "application/gzip"
_EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
# Of a book's checkpoints as many are kept: a reader may hold a row that names an older one.
CHECKPOINTS_KEPT = 3
# Objects of one batch written at once.
_WRITES = 4


class Bucket(S3Store):
    """The bucket, writing side: it can also be made."""

    def __init__(self, aws: AwsSettings, *, limits: Limits = OBJECT_WRITER) -> None:
        super().__init__(aws, limits=limits)
        self._region = aws.aws_region

    async def ensure(self, *, create: bool) -> None:
        """Return when the bucket can be used; make it when `create` allows it.

        Raises:
            StoreUnavailable: S3 does not answer.
            StoreMissing: it does not exist and must not be made.
        """
        try:
            await self.ping()
        except StoreMissing as error:
            if not create:
                raise StoreMissing(S3, self.bucket, made_here=True) from error
            await self._create()

    async def _create(self) -> None:
        # This region is S3's own default, and cannot be named.
        elsewhere = self._region != "us-east-1"
        where: Any = (
            {"CreateBucketConfiguration": {"LocationConstraint": self._region}} if elsewhere else {}
        )
        with translated(S3, self.bucket):
            if await answered(
                self.client.create_bucket(Bucket=self.bucket, **where), unless=_EXISTS
            ):
                log.info("bucket_created", bucket=self.bucket)


class ArchiveLog:
    """The archive of one log: a chain of commits, each number written once.

    Order of writing: the plan (`pending`), the objects, the numbered commit. After a crash
    `restore` finishes or drops what was begun, so every record is archived once. A number that
    somebody else has taken is refused by S3 (`If-None-Match`), so two processes that overlap, as in
    a rolling update, cannot archive a record twice either: the later one drops what is there.
    """

    def __init__(self, bucket: Bucket, log_name: str) -> None:
        self._bucket = bucket
        self._log = log_name
        self._index = ArchiveIndex(bucket, log_name)
        self._last: Commit | None = None
        # Objects of a commit whose number another process took: theirs, or to be deleted, which is
        # tried again in the next call where it fails.
        self._refused: set[str] = set()

    async def restore(self) -> Mapping[str, Head]:
        """How far each stream is archived.

        Raises:
            StoreUnavailable: S3 does not answer; calling it again is safe.
        """
        pending = await self._index.pending()
        if pending is None:
            self._last = None
            return {}
        self._last = await self._index.commit(pending.number)
        if self._last is None:
            await self._settle(pending)
        await self._follow()
        return archived_heads(self._last)

    async def _settle(self, pending: Commit) -> None:
        """Finish or drop what a crash left between plan and commit."""
        self._last = await self._index.commit(pending.number - 1) if pending.number > 1 else None
        existing = {entry.key for entry in pending.objects if await self._bucket.exists(entry.key)}
        settlement = settle_pending(pending, self._last, existing)
        await self._bucket.delete(settlement.orphans)
        if settlement.commit is not None:
            await self._commit(settlement.commit)
        kept = len(settlement.commit.objects) if settlement.commit is not None else 0
        log.info("archive_settled", log=self._log, kept=kept, planned=len(pending.objects))

    async def write(self, batch: SealedBatch) -> int:
        """Make the batch durable and readable; returns the compressed bytes.

        Raises:
            StoreUnavailable: S3 does not answer; calling it again with the same batch is safe.
        """
        written = 0
        while True:
            if self._refused:
                await self._follow()
            # Most often this drops nothing; it does where another process was faster, and after a
            # call that failed on its way back.
            batch = batch.beyond(archived_heads(self._last))
            entries = [sealed.entry for sealed in batch.objects]
            # What is written again under its name is not deleted: a delete whose answer is lost
            # may arrive behind it.
            self._refused.difference_update(entry.key for entry in entries)
            await self._bucket.delete(sorted(self._refused))
            self._refused.clear()
            if not entries:
                return written
            commit = next_commit(self._log, self._last, entries, now_us())
            await self._bucket.put(pending_key(self._log), pack_commit(commit), _INDEX)
            written += await self._put_objects(batch.objects, entries)
            if not await self._commit(commit):
                log.warning("archive_shared", log=self._log, number=commit.number)
                self._refused.update(entry.key for entry in entries)

    async def _put_objects(
        self, objects: Sequence[SealedObject], entries: Sequence[IndexedObject]
    ) -> int:
        limit = asyncio.Semaphore(_WRITES)

        async def put(sealed: SealedObject, entry: IndexedObject) -> int | StoreError:
            async with limit:
                content = await asyncio.to_thread(_compressed, sealed.lines)
                try:
                    await self._bucket.put(entry.key, content, _JSONL)
                except StoreError as error:
                    # The others are waited for: a write that is broken off may still arrive, and
                    # then behind whatever is done about this one.
                    return error
                return len(content)

        async with asyncio.TaskGroup() as tasks:
            writes = [
                tasks.create_task(put(sealed, entry), name=f"put:{entry.key}")
                for sealed, entry in zip(objects, entries, strict=True)
            ]
        written = 0
        for write in writes:
            result = write.result()
            if isinstance(result, StoreError):
                raise result
            written += result
        return written

    async def _commit(self, commit: Commit) -> bool:
        """Write the numbered commit; False when the number was taken by another process."""
        content = await asyncio.to_thread(pack_commit, commit)
        if await self._bucket.create(commit_key(self._log, commit.number), content, _INDEX):
            self._last = commit
            return True
        found = await self._index.commit(commit.number)
        # The same objects: our own attempt, whose answer was lost.
        if found is not None and found.objects == commit.objects:
            self._last = found
            return True
        return False

    async def _follow(self) -> None:
        """Advance to the newest commit."""
        number = self._last.number if self._last is not None else 0
        while (following := await self._index.commit(number + 1)) is not None:
            self._last = following
            number = following.number
            self._refused.difference_update(entry.key for entry in following.objects)


class CheckpointStore:
    """Writes books' checkpoints and removes those that nobody needs any more."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._kept: dict[StreamKey, list[str]] = {}

    async def write(self, image: BookImage) -> tuple[str, int]:
        """Store it; returns its key and compressed size."""
        object_key = checkpoint_key(image.key, image.position)
        content = await asyncio.to_thread(lambda: pack_checkpoint(image.encoded()))
        await self._bucket.put(object_key, content, "application/gzip")
        return object_key, len(content)

    async def prune(self, key: StreamKey, newest: str) -> None:
        """Remove the oldest ones, now that the row names `newest`."""
        kept = self._kept.get(key)
        if kept is None:
            kept = await self._bucket.keys(checkpoint_prefix(key))
        kept = [*(name for name in kept if name != newest), newest]
        await self._bucket.delete(kept[:-CHECKPOINTS_KEPT])
        self._kept[key] = kept[-CHECKPOINTS_KEPT:]


def _compressed(lines: Sequence[bytes]) -> bytes:
    return gzip.compress(b"\n".join(lines) + b"\n", 6, mtime=0)
