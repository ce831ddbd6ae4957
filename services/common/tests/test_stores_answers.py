"""Whatever comes in place of an answer of DynamoDB or S3 is a store that does not answer."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import StoreError, StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import Limits, open_client, translated
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import ArchiveIndex, S3ArchiveReader
from services.common.subjects import StreamKey

ONCE = Limits(connect_s=2.0, read_s=2.0, attempts=1, connections=1)
ANSWERS = {
    "a page": b"<html><body>be right back</body>",
    "nothing": b"",
    "half a document": b'<?xml version="1.0"?><ListBucketResult><Name>x',
    "half an object": b'{"Item": {"str',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
}
HEADS = {
    "200": "HTTP/1.1 200 OK\r\nContent-Type: text/html",
    "502": "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html",
    "403": "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html",
    "gzip over a plain body": "HTTP/1.1 200 OK\r\nContent-Encoding: gzip",
    "a redirect to nowhere": "HTTP/1.1 301 Moved\r\nLocation: http://[",
    "no HTTP": "SSH-2.0-OpenSSH",
}


KEY = {"stream": {"S": "x"}}
ITEM = {"TableName": "rows", "Key": KEY}
OBJECT = {"Bucket": "ticks", "Key": "x"}
PART = {**OBJECT, "UploadId": "x"}
CALLS: dict[tuple[str, str], dict[str, Any]] = {
    ("dynamodb", "get_item"): ITEM,
    ("dynamodb", "batch_get_item"): {"RequestItems": {"rows": {"Keys": [KEY]}}},
    ("dynamodb", "put_item"): {"TableName": "rows", "Item": KEY},
    ("dynamodb", "update_item"): ITEM,
    ("dynamodb", "describe_table"): {"TableName": "rows"},
    ("s3", "list_objects_v2"): {"Bucket": "ticks"},
    ("s3", "get_object"): OBJECT,
    ("s3", "head_object"): OBJECT,
    ("s3", "put_object"): {**OBJECT, "Body": b"x"},
    ("s3", "create_multipart_upload"): OBJECT,
    ("s3", "upload_part"): {**PART, "PartNumber": 1, "Body": b"x"},
    ("s3", "complete_multipart_upload"): PART,
    ("s3", "delete_objects"): {"Bucket": "ticks", "Delete": {"Objects": [{"Key": "x"}]}},
}


@asynccontextmanager
async def answered(
    head: str, body: bytes, monkeypatch: pytest.MonkeyPatch, length: int | None = None
) -> AsyncIterator[AwsSettings]:
    """A store that answers everything with this."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = len(body) if length is None else length
        told = f"{head}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        writer.write(told.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield AwsSettings(aws_endpoint_url=f"http://127.0.0.1:{port}", aws_region="eu-west-1")


async def asked(
    head: str, body: bytes, service: Any, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        answered(head, body, monkeypatch) as settings,
        open_client(service, settings, ONCE) as client,
    ):
        with translated(service, "rows"):
            await getattr(client, operation)(**CALLS[service, operation])


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("service", ["dynamodb", "s3"])
async def test_no_answer_does_worse_than_a_store_that_is_away(
    service: str, head: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = "get_item" if service == "dynamodb" else "list_objects_v2"
    with pytest.raises(StoreError):
        await asked(head, body, service, operation, monkeypatch)


# What a proxy or a sign-in page says in the store's place.
PAGES = {
    "a page": ("text/html", b"<html><body>sign in</body></html>"),
    "an object": ("application/json", b"{}"),
    "nothing": ("text/plain", b""),
}


@pytest.mark.parametrize(("kind", "body"), PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("service", ["dynamodb", "s3"])
async def test_a_page_with_a_200_is_no_answer_to_any_call(
    service: Any, kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}"
    taken = []
    async with (
        answered(head, body, monkeypatch) as settings,
        open_client(service, settings, ONCE) as client,
    ):
        for (whose, operation), arguments in CALLS.items():
            if whose != service:
                continue
            try:
                with translated(service, "rows"):
                    await getattr(client, operation)(**arguments)
            except StoreUnavailable:
                continue
            taken.append(operation)
    assert taken == []


JSON = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0"
BTC = StreamKey("coinbase", "ticker", "BTC-USD")


@pytest.mark.parametrize("body", [b"{}", b'{"Responses":{}}', b'{"Responses":{"t":[]}}'])
async def test_an_answer_that_is_silent_about_the_table_says_nothing_of_its_rows(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        answered(JSON, body, monkeypatch) as settings,
        DynamoLatestReader(settings, limits=ONCE) as latest,
    ):
        # This is how it says that there is none.
        assert await latest.get(BTC) is None
        with pytest.raises(StoreUnavailable):
            await latest.get_many([BTC])


XML = "HTTP/1.1 200 OK\r\nContent-Type: application/xml"
NO_TOKEN = b"<ListBucketResult><Name>x</Name><IsTruncated>true</IsTruncated></ListBucketResult>"


async def test_a_list_that_goes_on_nowhere_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        answered(XML, NO_TOKEN, monkeypatch) as settings,
        S3Store(settings, limits=ONCE) as store,
    ):
        with pytest.raises(StoreUnavailable):
            await store.folders("x/")
        with pytest.raises(StoreUnavailable):
            [key async for key in store.walk("x/")]


async def test_an_object_shorter_than_its_length_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    head = 'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Type: application/gzip'
    async with (
        answered(head, gzip.compress(b"{}")[:8], monkeypatch, length=40) as settings,
        S3Store(settings, limits=ONCE) as store,
    ):
        with pytest.raises(StoreUnavailable):
            await store.get("x")


STORED = {
    "a page": b"<html>",
    "nothing": b"",
    "half an object": gzip.compress(b"{}" * 99, mtime=0)[:20],
    "a damaged object": gzip.compress(b"{}" * 99, mtime=0)[:12] + b"\xff" * 20,
    "no text": gzip.compress(b'{"v":"\xff"}', mtime=0),
    "nested without end": gzip.compress(b"[" * 9999, mtime=0),
    "a line of no text": gzip.compress(b'{"type":"\xff","product":"BTC-USD"}', mtime=0),
}
# Of an archive object, lines that cannot be read are left out.
WHOLE = {"no text", "nested without end", "a line of no text"}


@pytest.mark.parametrize("stored", STORED)
async def test_what_is_no_index_and_no_archive_object_is_a_store_that_does_not_answer(
    stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = 'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Type: application/gzip'
    async with (
        answered(head, STORED[stored], monkeypatch) as settings,
        S3Store(settings, limits=ONCE) as store,
    ):
        with pytest.raises(StoreUnavailable):
            await ArchiveIndex(store, "raw").newest()
        reader = S3ArchiveReader(store)
        if stored in WHOLE:
            assert await reader._records("x", BTC) == []
            return
        with pytest.raises(StoreUnavailable, match="no archive object"):
            await reader._records("x", BTC)


async def test_a_document_cut_short_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Encoding: gzip"
    with pytest.raises(StoreError):
        await asked(head, gzip.compress(b"<a/>" * 50)[:30], "s3", "list_objects_v2", monkeypatch)
