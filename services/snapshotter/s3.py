"""Writes archive batches and book checkpoints to S3."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Mapping, Sequence

import structlog
from botocore.exceptions import ClientError

from services.common.settings import AwsSettings
from services.common.stores.aws import OBJECT_WRITER, S3, Limits, error_code, translated
from services.common.stores.index import (
    Commit,
    Head,
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
from services.common.stores.ports import Checkpoint
from services.common.stores.s3 import ArchiveIndex, S3Store
from services.common.subjects import StreamKey
from services.snapshotter.batch import SealedBatch, SealedObject

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
        with translated(S3, self.bucket):
            try:
                await self.client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error_code(error) not in {"404", "NoSuchBucket"}:
                    raise
                if not create:
                    error.response["Error"]["Code"] = "NoSuchBucket"
                    raise
            else:
                return
            try:
                if self._region == "us-east-1":
                    await self.client.create_bucket(Bucket=self.bucket)
                else:
                    await self.client.create_bucket(
                        Bucket=self.bucket,
                        # boto3's stubs list the regions of the day they were made.
                        CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]  # any region
                    )
            except ClientError as error:
                if error_code(error) not in _EXISTS:
                    raise
            else:
                log.info("bucket_created", bucket=self.bucket)


class ArchiveLog:
    """The archive of one log: a chain of commits, each written once. One writer per log.

    Order of writing: the plan (`pending`), the objects, the numbered commit. After a crash
    `restore` finishes or drops what was begun, so every record is archived once.
    """

    def __init__(self, bucket: Bucket, log_name: str) -> None:
        self._bucket = bucket
        self._log = log_name
        self._index = ArchiveIndex(bucket, log_name)
        self._last: Commit | None = None

    async def restore(self) -> Mapping[str, Head]:
        """How far each stream is archived.

        Raises:
            StoreUnavailable: S3 does not answer; calling it again is safe.
        """
        pending = await self._index.pending()
        if pending is None:
            self._last = None
            return {}
        finished = await self._index.commit(pending.number)
        if finished is not None:
            self._last = finished
            return finished.heads
        self._last = await self._index.commit(pending.number - 1) if pending.number > 1 else None
        existing = {entry.key for entry in pending.objects if await self._bucket.exists(entry.key)}
        settlement = settle_pending(pending, self._last, existing)
        await self._bucket.delete(settlement.orphans)
        if settlement.commit is not None:
            # A reader may still see the old plan; its number stays the same.
            await self._put_commit(pending_key(self._log), settlement.commit)
            await self._put_commit(
                commit_key(self._log, settlement.commit.number), settlement.commit
            )
            self._last = settlement.commit
        log.info(
            "archive_settled",
            log=self._log,
            kept=len(settlement.commit.objects) if settlement.commit is not None else 0,
            planned=len(pending.objects),
        )
        return archived_heads(self._last)

    async def write(self, batch: SealedBatch) -> int:
        """Make the batch durable and readable; returns the compressed bytes.

        Raises:
            StoreUnavailable: S3 does not answer; calling it again with the same batch is safe.
        """
        entries = [sealed.entry for sealed in batch.objects]
        commit = next_commit(self._log, self._last, entries, time.time_ns() // 1000)
        await self._put_commit(pending_key(self._log), commit)
        limit = asyncio.Semaphore(_WRITES)
        results = await asyncio.gather(
            *(self._put_object(sealed, limit) for sealed in batch.objects), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        await self._put_commit(commit_key(self._log, commit.number), commit)
        self._last = commit
        return sum(size for size in results if isinstance(size, int))

    async def _put_object(self, sealed: SealedObject, limit: asyncio.Semaphore) -> int:
        async with limit:
            content = await asyncio.to_thread(_compressed, sealed.lines)
            await self._bucket.put(sealed.entry.key, content, _JSONL)
            return len(content)

    async def _put_commit(self, key: str, commit: Commit) -> None:
        await self._bucket.put(key, await asyncio.to_thread(pack_commit, commit), _INDEX)


class CheckpointStore:
    """Writes books' checkpoints and removes those that nobody needs any more."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._kept: dict[StreamKey, list[str]] = {}

    async def write(self, checkpoint: Checkpoint) -> tuple[str, int]:
        """Store it; returns its key and compressed size."""
        object_key = checkpoint_key(checkpoint.key, checkpoint.position)
        content = await asyncio.to_thread(pack_checkpoint, checkpoint)
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
