"""A bucket's objects by key, and the checkpoints among them. The archive is in `s3_archive.py`.

async with S3Store(aws_settings) as store:
    checkpoint = await store.get_checkpoint(row.checkpoint)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from botocore.exceptions import ClientError

from services.common.errors import StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import (
    READER,
    S3,
    AwsStore,
    Limits,
    answered,
    error_code,
    translated,
)
from services.common.stores.layout import BadObject, unpack_checkpoint
from services.common.stores.ports import Checkpoint, CheckpointReader

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, ListObjectsV2OutputTypeDef
else:
    S3Client = Any

log = structlog.get_logger(__name__)

_GONE = {"NoSuchKey", "404"}
_TAKEN = {"PreconditionFailed", "412"}
# Objects of more than two parts are written in parts of this size (S3 allows 5 MiB to 5 GiB).
PART_BYTES = 8 * 1024 * 1024
_PARTS_AT_ONCE = 4


class S3Store(AwsStore[S3Client], CheckpointReader):
    """A bucket: whole objects by key, S3's errors translated. Open it once per process.

    Every method raises `StoreUnavailable` when S3 does not answer and `StoreMissing` when the
    bucket does not exist.
    """

    def __init__(
        self, aws: AwsSettings, *, limits: Limits = READER, part_bytes: int = PART_BYTES
    ) -> None:
        super().__init__(S3, aws, limits)
        self.bucket = aws.s3_bucket
        self._part_bytes = part_bytes

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
                with translated(S3, self.bucket):
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
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(put(n, part), name=f"part:{n}")
                    for n, part in enumerate(parts, start=1)
                ]
            with translated(S3, self.bucket):
                await self.client.complete_multipart_upload(
                    Bucket=self.bucket,
                    Key=key,
                    UploadId=upload["UploadId"],
                    MultipartUpload={"Parts": [task.result() for task in tasks]},
                )
        except BaseException as error:  # also when cancelled: parts that were begun cost money
            # What cannot be reached now either is left to the bucket's lifecycle rule.
            with contextlib.suppress(StoreUnavailable), translated(S3, self.bucket):
                await self.client.abort_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=upload["UploadId"]
                )
            if isinstance(error, ExceptionGroup):
                # The first part that failed ended the others.
                raise error.exceptions[0] from error
            raise

    async def create(self, key: str, content: bytes, content_type: str) -> bool:
        """Write the object unless there is one already; says whether it was written."""
        with translated(S3, self.bucket):
            return await answered(
                self.client.put_object(
                    Bucket=self.bucket,
                    Key=key,
                    Body=content,
                    ContentType=content_type,
                    IfNoneMatch="*",
                ),
                unless=_TAKEN,
            )

    async def exists(self, key: str) -> bool:
        with translated(S3, self.bucket):
            return await answered(
                self.client.head_object(Bucket=self.bucket, Key=key), unless=_GONE
            )

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
        async for page in self._pages(Prefix=prefix):
            for item in page.get("Contents", ()):
                yield item["Key"]

    async def folders(self, prefix: str) -> list[str]:
        """The prefixes one level below `prefix` (which ends in `/`), each ending in `/`, sorted."""
        return [
            item["Prefix"]
            async for page in self._pages(Prefix=prefix, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        ]

    async def _pages(self, **listing: Any) -> AsyncGenerator[ListObjectsV2OutputTypeDef]:
        """Every answer of a listing."""
        more = True
        while more:
            with translated(S3, self.bucket):
                page = await self.client.list_objects_v2(Bucket=self.bucket, **listing)
                more = page["IsTruncated"]
                if more:
                    listing["ContinuationToken"] = page["NextContinuationToken"]
            yield page

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

    async def get_checkpoint(self, object_key: str) -> Checkpoint | None:
        stored = await self.get(object_key)
        if stored is None:
            return None
        try:
            # A large book takes tens of milliseconds, which the event loop does not have.
            return await asyncio.to_thread(unpack_checkpoint, stored)
        except BadObject as error:
            log.warning("checkpoint_unreadable", key=object_key, reason=str(error))
            return None
