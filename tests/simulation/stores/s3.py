"""S3 as buckets in memory: whole objects by key, strongly consistent, `If-None-Match: *`.

The source of each rule is the service's documentation, and moto's server: the same tests run on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.simulation.stores.answers import refusal

_LEAST_PART = 5 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """An object."""

    content: bytes
    content_type: str
    etag: str


@dataclass(slots=True)
class _Upload:
    key: str
    content_type: str
    parts: dict[int, bytes] = field(default_factory=dict)


class Body:
    """The content of an answer, as a stream that is open for a block."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Nothing is open."""

    async def read(self) -> bytes:
        return self._content


class S3Model:
    """What the service knows; each call is one moment."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self._uploads: dict[str, _Upload] = {}
        self._numbered = 0

    # -- buckets

    def create_bucket(self, Bucket: str, **_options: Any) -> dict[str, Any]:
        if Bucket in self.buckets:
            raise refusal("CreateBucket", 409, "BucketAlreadyOwnedByYou", "it is yours already")
        self.buckets[Bucket] = {}
        return {}

    def head_bucket(self, Bucket: str) -> dict[str, Any]:
        if Bucket not in self.buckets:
            raise refusal("HeadBucket", 404, "404", "Not Found")
        return {}

    def _bucket(self, operation: str, name: str) -> dict[str, Stored]:
        held = self.buckets.get(name)
        if held is None:
            raise refusal(operation, 404, "NoSuchBucket", "The specified bucket does not exist")
        return held

    # -- objects

    def put_object(
        self,
        Bucket: str,
        Key: str,
        Body: bytes,
        ContentType: str,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        held = self._bucket("PutObject", Bucket)
        if IfNoneMatch is not None and Key in held:
            raise refusal("PutObject", 412, "PreconditionFailed", "it is there already")
        held[Key] = Stored(bytes(Body), ContentType, f'"{_md5(Body).hexdigest()}"')
        return {"ETag": held[Key].etag}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        found = self._bucket("GetObject", Bucket).get(Key)
        if found is None:
            raise refusal("GetObject", 404, "NoSuchKey", "The specified key does not exist.")
        return {"Body": Body(found.content), "ETag": found.etag}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        found = self._bucket("HeadObject", Bucket).get(Key)
        if found is None:
            raise refusal("HeadObject", 404, "404", "Not Found")
        return {"ETag": found.etag, "ContentType": found.content_type}

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        held = self._bucket("DeleteObjects", Bucket)
        for each in Delete["Objects"]:
            held.pop(each["Key"], None)
        return {"Deleted": Delete["Objects"]}

    def list_objects_v2(
        self,
        Bucket: str,
        Prefix: str = "",
        MaxKeys: int = 1000,
        Delimiter: str | None = None,
        ContinuationToken: str = "",
    ) -> dict[str, Any]:
        keys = sorted(
            key for key in self._bucket("ListObjectsV2", Bucket) if key.startswith(Prefix)
        )
        names = dict.fromkeys(_entry(key, Prefix, Delimiter) for key in keys)
        left = [name for name in names if name > ContinuationToken]
        page = left[:MaxKeys]
        folders = [name for name in page if Delimiter is not None and name.endswith(Delimiter)]
        found: dict[str, Any] = {
            "Contents": [{"Key": name} for name in page if name not in folders],
            "CommonPrefixes": [{"Prefix": name} for name in folders],
            "IsTruncated": len(left) > len(page),
        }
        return found | ({"NextContinuationToken": page[-1]} if found["IsTruncated"] else {})

    # -- objects in parts

    def create_multipart_upload(self, Bucket: str, Key: str, ContentType: str) -> dict[str, Any]:
        self._bucket("CreateMultipartUpload", Bucket)
        self._numbered += 1
        self._uploads[str(self._numbered)] = _Upload(Key, ContentType)
        return {"UploadId": str(self._numbered)}

    def upload_part(
        self, Bucket: str, Key: str, PartNumber: int, UploadId: str, Body: bytes
    ) -> dict[str, Any]:
        self._upload("UploadPart", UploadId).parts[PartNumber] = bytes(Body)
        return {"ETag": f'"{_md5(Body).hexdigest()}"'}

    def complete_multipart_upload(
        self, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, Any]
    ) -> dict[str, Any]:
        upload = self._upload("CompleteMultipartUpload", UploadId)
        parts = [upload.parts[part["PartNumber"]] for part in MultipartUpload["Parts"]]
        if any(len(part) < _LEAST_PART for part in parts[:-1]):
            raise refusal("CompleteMultipartUpload", 400, "EntityTooSmall", "a part is too small")
        whole = _md5(b"".join(_md5(part).digest() for part in parts)).hexdigest()
        stored = Stored(b"".join(parts), upload.content_type, f'"{whole}-{len(parts)}"')
        self._bucket("CompleteMultipartUpload", Bucket)[Key] = stored
        del self._uploads[UploadId]
        return {"ETag": stored.etag}

    def abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str) -> dict[str, Any]:
        self._upload("AbortMultipartUpload", UploadId)
        del self._uploads[UploadId]
        return {}

    def list_multipart_uploads(self, Bucket: str) -> dict[str, Any]:
        self._bucket("ListMultipartUploads", Bucket)
        found = [{"Key": each.key, "UploadId": name} for name, each in self._uploads.items()]
        return {"Uploads": found}

    def _upload(self, operation: str, upload_id: str) -> _Upload:
        if upload_id not in self._uploads:
            raise refusal(operation, 404, "NoSuchUpload", "The upload does not exist")
        return self._uploads[upload_id]


def _md5(content: bytes | Sequence[int]) -> Any:
    return hashlib.md5(bytes(content), usedforsecurity=False)


def _entry(key: str, prefix: str, delimiter: str | None) -> str:
    """The key, or the folder below the prefix that it is in."""
    if delimiter is None or delimiter not in key[len(prefix) :]:
        return key
    return key[: key.index(delimiter, len(prefix)) + len(delimiter)]
