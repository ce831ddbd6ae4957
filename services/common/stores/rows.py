"""A latest row as a DynamoDB item: the one place that knows its attributes.

| attribute | type | holds |
|---|---|---|
| `stream` | S, partition key | `venue:channel:product` |
| `epoch`, `seq` | N | position of the last record in the state |
| `cursor` | S | the broker's cursor of that record |
| `shard` | N | whose tick log the cursor belongs to |
| `ts_snapshot` | N | when the state was taken, microseconds |
| `state` | B | JSON, compressed with gzip above `COMPRESS_ABOVE` bytes |
| `checkpoint` | S, optional | S3 key of the full book |
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

from services.common.errors import InvalidSubject
from services.common.stores.packed import unpacked
from services.common.stores.ports import LatestRow
from services.common.stream import Position
from services.common.subjects import StreamKey

KEY = "stream"
# DynamoDB bills writes by the KiB, so a state of some size is worth a few microseconds of zlib.
COMPRESS_ABOVE = 8192
# How many levels a side a book's row holds; the rest is in the checkpoint the row names.
BOOK_DEPTH = 50

_GZIP_MAGIC = b"\x1f\x8b"
_UNREADABLE = (LookupError, TypeError, ValueError, EOFError, OSError, zlib.error, InvalidSubject)


class BadRow(ValueError):
    """An item that is not one of ours: an attribute is missing or has another type."""


def row_key(key: StreamKey) -> dict[str, Any]:
    """Primary key of a stream's row, as DynamoDB's low-level API takes it."""
    return {KEY: {"S": str(key)}}


def row_to_item(row: LatestRow) -> dict[str, Any]:
    """The item that stores `row`; the same row always gives the same item."""
    item = {
        **row_key(row.key),
        "epoch": {"N": str(row.position.epoch)},
        "seq": {"N": str(row.position.seq)},
        "cursor": {"S": row.cursor},
        "shard": {"N": str(row.shard)},
        "ts_snapshot": {"N": str(row.ts_snapshot)},
        "state": {"B": pack_state(row.state)},
    }
    if row.checkpoint is not None:
        item["checkpoint"] = {"S": row.checkpoint}
    return item


def row_from_item(item: Mapping[str, Any]) -> LatestRow:
    """Read an item back. Raises BadRow when it was not written by `row_to_item`."""
    try:
        checkpoint = item.get("checkpoint")
        return LatestRow(
            key=StreamKey.parse(item[KEY]["S"]),
            position=Position(int(item["epoch"]["N"]), int(item["seq"]["N"])),
            cursor=item["cursor"]["S"],
            shard=int(item["shard"]["N"]),
            ts_snapshot=int(item["ts_snapshot"]["N"]),
            state=unpack_state(bytes(item["state"]["B"])),
            checkpoint=None if checkpoint is None else checkpoint["S"],
        )
    except _UNREADABLE as error:
        raise BadRow(f"not a latest row: {error!r}") from error


def pack_state(state: bytes) -> bytes:
    """JSON as it is stored: compressed when it is large."""
    # Without a time stamp inside, equal states give equal bytes.
    return gzip.compress(state, 6, mtime=0) if len(state) > COMPRESS_ABOVE else state


def unpack_state(stored: bytes) -> bytes:
    """JSON again; no JSON text begins with gzip's two magic bytes."""
    return unpacked(stored) if stored.startswith(_GZIP_MAGIC) else stored
