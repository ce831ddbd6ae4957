"""Checkpoints and archived ticks from S3.

async with S3Store(aws_settings) as store:
    checkpoint = await S3CheckpointReader(store).get_checkpoint(row.checkpoint)
    async for payload in S3ArchiveReader(store).read(key, shard, after):
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Self

import structlog
from botocore.exceptions import ClientError

from services.common.errors import StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import READER, S3, Limits, error_code, open_client, translated
from services.common.stores.index import BadCommit, Commit, unpack_commit
from services.common.stores.layout import (
    BadObject,
    commit_key,
    index_prefix,
    pending_key,
    unpack_checkpoint,
)
from services.common.stores.ports import ArchiveReader, Checkpoint, CheckpointReader
from services.common.stores.prefetch import ahead
from services.common.stream import Position
from services.common.subjects import StreamKey, tick_log
from services.common.wire import UNREADABLE, decode_head

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

log = structlog.get_logger(__name__)

_GONE = {"NoSuchKey", "404"}
_TAKEN = {"PreconditionFailed", "412"}
# Objects of more than two parts are written in parts of this size (S3 allows 5 MiB to 5 GiB).
PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 4
# Archive objects that are fetched while an earlier one is read.
OBJECTS_AHEAD = 2


class S3Store:
    """A bucket: whole objects by key, S3's errors translated. Open it once per process.

    Every method raises `StoreUnavailable` when S3 does not answer and `StoreMissing` when the
    bucket does not exist.
    """

    def __init__(
        self, aws: AwsSettings, *, limits: Limits = READER, part_bytes: int = PART_BYTES
    ) -> None:
        self._part_bytes = part_bytes
        self.bucket = aws.s3_bucket
        self._aws = aws
        self._limits = limits
        self._stack = contextlib.AsyncExitStack()
        self._client: S3Client | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(
            open_client(S3, self._aws, self._limits)
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._client = None
        await self._stack.aclose()

    @property
    def client(self) -> S3Client:
        if self._client is None:
            raise StoreUnavailable(S3, "the store is not open")
        return self._client

    async def get(self, key: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        with translated(S3, self.bucket):
            try:
                answer = await self.client.get_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error_code(error) in _GONE:
                    return None
                raise
            async with answer["Body"] as body:
                return await body.read()

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Write the object, replacing what was there; in parts when it is large.

        It is there as a whole or, when this raises, not at all.
        """
        if len(content) > 2 * self._part_bytes:
            await self._put_parts(key, content, content_type)
            return
        with translated(S3, self.bucket):
            await self.client.put_object(
                Bucket=self.bucket, Key=key, Body=content, ContentType=content_type
            )

    async def _put_parts(self, key: str, content: bytes, content_type: str) -> None:
        """Several connections, and a failed part is not the whole object again."""
        with translated(S3, self.bucket):
            upload = await self.client.create_multipart_upload(
                Bucket=self.bucket, Key=key, ContentType=content_type
            )
        limit = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def put(number: int, part: bytes) -> CompletedPartTypeDef:
            async with limit:
                answer = await self.client.upload_part(
                    Bucket=self.bucket,
                    Key=key,
                    PartNumber=number,
                    UploadId=upload["UploadId"],
                    Body=part,
                )
                return {"PartNumber": number, "ETag": answer["ETag"]}

        starts = range(0, len(content), self._part_bytes)
        parts = [content[start : start + self._part_bytes] for start in starts]
        tasks = [asyncio.ensure_future(put(n, part)) for n, part in enumerate(parts, start=1)]
        try:
            with translated(S3, self.bucket):
                done = [await task for task in tasks]
                await self.client.complete_multipart_upload(
                    Bucket=self.bucket,
                    Key=key,
                    UploadId=upload["UploadId"],
                    MultipartUpload={"Parts": done},
                )
        except BaseException:  # also when it is cancelled: parts that were begun cost money
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            # What cannot be reached now either is left to the bucket's lifecycle rule.
            with contextlib.suppress(StoreUnavailable), translated(S3, self.bucket):
                await self.client.abort_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload["UploadId"]
                )
            raise

    async def create(self, key: str, content: bytes, content_type: str) -> bool:
        """Write the object unless there is one already; says whether it was written."""
        with translated(S3, self.bucket):
            try:
                await self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=content,
                    ContentType=content_type,
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if error_code(error) in _TAKEN:
                    return False
                raise
            return True

    async def exists(self, key: str) -> bool:
        with translated(S3, self.bucket):
            try:
                await self.client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error_code(error) in _GONE:
                    return False
                raise
            return True

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete up to 1000 objects; those that do not exist are none.

        Raises `StoreUnavailable` also when some could not be deleted.
        """
        if not keys:
            return
        with translated(S3, self.bucket):
            answer = await self.client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in keys]},
            )
        # The call succeeds when each of its objects is refused.
        if refused := answer.get("Errors"):
            first = refused[0]
            reason = f"{first.get('Code')}: {len(refused)} of {len(keys)} not deleted"
            raise StoreUnavailable(S3, f"{reason}, such as {first.get('Key')} ({self.bucket})")

    async def keys(self, prefix: str, *, limit: int = 1000) -> list[str]:
        """The first `limit` (at most 1000) keys under `prefix`, sorted."""
        with translated(S3, self.bucket):
            answer = await self.client.list_objects_v2(
                Bucket=self.bucket, Prefix=prefix, MaxKeys=limit
            )
        return [item["Key"] for item in answer.get("Contents", ())]

    async def walk(self, prefix: str) -> AsyncGenerator[str]:
        """Every key under `prefix`, sorted, a thousand a request."""
        token: str | None = None
        while True:
            with translated(S3, self.bucket):
                more: Any = {} if token is None else {"ContinuationToken": token}
                answer = await self.client.list_objects_v2(
                    Bucket=self.bucket, Prefix=prefix, **more
                )
                token = answer["NextContinuationToken"] if answer["IsTruncated"] else None
            for item in answer.get("Contents", ()):
                yield item["Key"]
            if token is None:
                return

    async def folders(self, prefix: str) -> list[str]:
        """The prefixes one level below `prefix` (which ends in `/`), each ending in `/`, sorted."""
        found: list[str] = []
        token: str | None = None
        while True:
            with translated(S3, self.bucket):
                more: Any = {} if token is None else {"ContinuationToken": token}
                answer = await self.client.list_objects_v2(
                    Bucket=self.bucket, Prefix=prefix, Delimiter="/", **more
                )
                token = answer["NextContinuationToken"] if answer["IsTruncated"] else None
            found += [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
            if token is None:
                return found

    async def ping(self) -> None:
        """Return when the bucket answers."""
        with translated(S3, self.bucket):
            try:
                await self.client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error_code(error) in _GONE:
                    # HEAD answers carry no body, hence no better word than 404.
                    error.response["Error"]["Code"] = "NoSuchBucket"
                raise


class S3CheckpointReader(CheckpointReader):
    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def get_checkpoint(self, object_key: str) -> Checkpoint | None:
        stored = await self._store.get(object_key)
        if stored is None:
            return None
        try:
            # A large book takes tens of milliseconds, which the event loop does not have.
            return await asyncio.to_thread(unpack_checkpoint, stored)
        except BadObject as error:
            log.warning("checkpoint_unreadable", key=object_key, reason=str(error))
            return None


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
        if not newest.reaches(stream, after):
            return None
        low = await self.oldest_number()
        if low is None:
            return None
        found, high = newest, newest.number
        while low < high:
            middle = (low + high) // 2
            commit = await self.commit(middle)
            if commit is not None and commit.reaches(stream, after):
                found, high = commit, middle
            else:
                low = middle + 1
        return found

    async def before(self, ts: int, newest: Commit) -> Commit | None:
        """The last commit made before `ts` (microseconds): O(log n) requests."""
        if newest.ts < ts:
            return newest
        low = await self.oldest_number()
        found: Commit | None = None
        high = newest.number
        while low is not None and low < high:
            middle = (low + high) // 2
            commit = await self.commit(middle)
            if commit is not None and commit.ts < ts:
                found = commit
                low = middle + 1
            else:
                high = middle
        return found

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
        async with contextlib.aclosing(ahead(keys, load, OBJECTS_AHEAD)) as objects:
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
    for line in gzip.decompress(stored).splitlines():
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


__all__ = ["ArchiveIndex", "S3ArchiveReader", "S3CheckpointReader", "S3Store"]
