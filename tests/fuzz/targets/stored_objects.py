"""What lies in S3 and DynamoDB: read as it was written, or refused by the reader's own error.

The first byte says how the rest is stored: as it is, or compressed by us. What is small and unpacks
to what is large is refused before it is large.
"""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress

import msgspec

from services.common.stores.index import BadCommit, Commit, pack_commit, unpack_commit
from services.common.stores.layout import (
    BadObject,
    pack_checkpoint,
    parse_archive_key,
    unpack_checkpoint,
)
from services.common.stores.rows import BadRow, row_from_item, row_to_item
from services.common.stores.s3_archive import _lines_of
from services.common.subjects import StreamKey


def check(data: bytes) -> None:
    how, body = data[:1], data[1:]
    stored = gzip.compress(body, 1, mtime=0) if how in (b"", b"g") else body
    try:
        checkpoint = unpack_checkpoint(stored)
    except BadObject:
        pass
    else:
        assert unpack_checkpoint(pack_checkpoint(checkpoint)) == checkpoint
    try:
        commit = unpack_commit(stored)
    except BadCommit:
        pass
    else:
        assert unpack_commit(pack_commit(commit)) == commit
        _asked(commit)
    # As the reader of archives takes it, who tells the store's caller.
    with suppress(OSError, EOFError, zlib.error):
        found = _lines_of(stored, "key", StreamKey("coinbase", "trades", "BTC-USD"))
        assert all(line in body for _, line in found) or how != b"g"
    text = body.decode("latin-1")
    name = parse_archive_key(text)
    assert name is None or name.key == text
    _row(body, stored)


def _asked(commit: Commit) -> None:
    stream = "coinbase:trades:BTC-USD"
    head = commit.heads.get(stream)
    if head is not None:
        commit.objects_of(stream, head.position)
        commit.reaches(stream, head.position)


def _row(body: bytes, stored: bytes) -> None:
    """The strings of an item are JSON here; their types are DynamoDB's own, so as they must be."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    kinds = {"epoch": "N", "seq": "N", "shard": "N", "ts_snapshot": "N"}
    item = {name: {kinds.get(name, "S"): value} for name, value in fields.items()}
    item["state"] = {"B": stored}  # type: ignore[dict-item]  # bytes, as the driver gives them
    try:
        row = row_from_item(item)
    except BadRow:
        return
    assert row_from_item(row_to_item(row)) == row


_KEY = (
    b"ticks/v=1/venue=coinbase/channel=trades/date=2026-07-07/hour=22/shard=3/"
    b"1783000000000000.0123456789abcdef-1783000000000001.0123456789abcdef.jsonl.gz"
)
SEEDS = (
    (
        b'g{"v":1,"stream":"coinbase:book:BTC-USD","epoch":3,"seq":9,"cursor":"3@9","shard":0,'
        b'"ts_snapshot":5,"state":{"bids":[["1","2"]],"asks":[]}}'
    ),
    (
        b'g{"v":1,"log":"tick.3","number":4,"ts":5,"objects":[{"key":"k","streams":{'
        b'"coinbase:trades:BTC-USD":{"first":[3,1,0],"last":{"position":[3,9,0],"cursor":"3@9"},'
        b'"count":9}}}],"heads":{"coinbase:trades:BTC-USD":{"position":[3,9,0],"cursor":"3@9"}}}'
    ),
    (
        b'g{"type":"tick","venue":"coinbase","channel":"trades","product":"BTC-USD","epoch":3,'
        b'"seq":9,"prev":8}\n{"type":"tick"}\n'
    ),
    (
        b'p{"stream":"coinbase:ticker:BTC-USD","epoch":"3","seq":"9","cursor":"3@9","shard":"0",'
        b'"ts_snapshot":"5","checkpoint":"checkpoints/coinbase"}'
    ),
    b"p" + _KEY,
    b"p" + gzip.compress(b'{"v":1}', mtime=0),
    b"p\x1f\x8b",
)
