"""Whatever comes in place of an answer of DynamoDB or S3 is a store that does not answer."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from services.common.errors import StoreError
from services.common.settings import AwsSettings
from services.common.stores.aws import Limits, open_client, translated

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


async def asked(head: str, body: bytes, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        told = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(told.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = AwsSettings(aws_endpoint_url=f"http://127.0.0.1:{port}", aws_region="eu-west-1")
    async with server, open_client(service, settings, ONCE) as client:
        if service == "dynamodb":
            with translated("dynamodb", "rows"):
                await client.get_item(TableName="rows", Key={"stream": {"S": "x"}})
            return
        with translated("s3", "ticks"):
            await client.list_objects_v2(Bucket="ticks")


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("service", ["dynamodb", "s3"])
async def test_no_answer_does_worse_than_a_store_that_is_away(
    service: str, head: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        await asked(head, body, service, monkeypatch)
    except StoreError:
        return
    # What the SDK takes for an answer says that nothing is there.
    assert head.startswith("HTTP/1.1 200")


async def test_a_document_cut_short_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Encoding: gzip"
    with pytest.raises(StoreError):
        await asked(head, gzip.compress(b"<a/>" * 50)[:30], "s3", monkeypatch)
