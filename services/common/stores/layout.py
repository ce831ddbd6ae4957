"""Where everything stands in the bucket, and what a book's checkpoint looks like. Pure.

    ticks/v=1/venue=V/channel=C/date=YYYY-MM-DD/hour=HH/shard=S/<first>-<last>.jsonl.gz
    raw/v=1/...                                       likewise, from the raw log
    checkpoints/V/C/P/<epoch>-<seq>.json.gz           a whole book
    index/v=1/log=L/<n>.json.gz                       which objects hold which positions
    index/v=1/log=L/pending.json.gz                   the newest commit, perhaps unfinished

Partitions are Hive's, so Athena, Spark and DuckDB find them; date and hour are those of receiving,
in UTC. Every name follows from the content, so writing the same thing again replaces it.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec
import xxhash

from services.common.stores.packed import unpacked
from services.common.stores.ports import Checkpoint
from services.common.stream import Position
from services.common.subjects import StreamKey

TICKS = "ticks"
RAW = "raw"
_HOUR_US = 3_600_000_000


class Partition(NamedTuple):
    """What one archive object has in common: everything in its path but the name."""

    kind: str
    venue: str
    channel: str
    hour: str
    shard: int

    @property
    def prefix(self) -> str:
        date, hour = self.hour.split("T")
        return (
            f"{self.kind}/v=1/venue={self.venue}/channel={self.channel}"
            f"/date={date}/hour={hour}/shard={self.shard}/"
        )


def partition_of(kind: str, key: StreamKey, ts: int, shard: int) -> Partition:
    """The partition of a record of `key` that was received at `ts` (microseconds).

    Times in names have 16 digits: `ts` is 0 to `wire.LAST_RECEIVED`.
    """
    return _partition(kind, key.venue, key.channel, ts // _HOUR_US, shard)


# Asked for each record, and nearly always the same as for the one before.
@lru_cache(maxsize=4096)
def _partition(kind: str, venue: str, channel: str, hours: int, shard: int) -> Partition:
    hour = datetime.fromtimestamp(hours * 3600, UTC).strftime("%Y-%m-%dT%H")
    return Partition(kind, venue, channel, hour, shard)


def mark(key: StreamKey, position: Position, ts: int) -> str:
    """How an archive object's name begins: receive time of its first record, then which that is.

    Names sort by time.
    """
    identity = f"{key}:{position.epoch}:{position.seq}:{position.sub}"
    return f"{ts:016d}.{xxhash.xxh64_hexdigest(identity.encode())}"


def end_mark(lines: Iterable[bytes], ts: int) -> str:
    """How it ends: receive time of its last record, then what all of it is.

    Who writes other records between the same two, as a process that overlaps may, writes another
    object and does not replace the first one.
    """
    content = xxhash.xxh64()
    for line in lines:
        content.update(line)
    return f"{ts:016d}.{content.hexdigest()}"


def archive_key(partition: Partition, first: str, last: str) -> str:
    return f"{partition.prefix}{first}-{last}.jsonl.gz"


class ArchiveName(NamedTuple):
    """What an archive object's key says of it; times in microseconds.

    `lane` is its path without date and hour: the objects of one lane, by the times of their first
    records, hold every stream's records in order, but for writers that overlapped.
    """

    key: str
    lane: str
    hour: str
    name: str
    first: int
    last: int


_ARCHIVED = re.compile(
    r"(?P<head>.*?(?:raw|ticks)/v=1/venue=[^/]+/channel=[^/]+)"
    r"/date=(?P<date>[0-9-]{10})/hour=(?P<hour>\d\d)/(?P<shard>shard=\d+)/"
    r"(?P<name>(?P<first>\d{16})\.[0-9a-f]{16}-(?P<last>\d{16})\.[0-9a-f]{16}\.jsonl\.gz)"
)


def parse_archive_key(key: str) -> ArchiveName | None:
    """Read the key of a batch's object back; None for another key."""
    found = _ARCHIVED.fullmatch(key)
    if found is None:
        return None
    return ArchiveName(
        key=key,
        lane=f"{found['head']}/{found['shard']}",
        hour=f"{found['date']}T{found['hour']}",
        name=found["name"],
        first=int(found["first"]),
        last=int(found["last"]),
    )


def checkpoint_prefix(key: StreamKey) -> str:
    return f"checkpoints/{key.venue}/{key.channel}/{key.product}/"


def checkpoint_key(key: StreamKey, position: Position) -> str:
    """Sorts by position inside the stream's prefix."""
    return f"{checkpoint_prefix(key)}{position.epoch:020d}-{position.seq:020d}.json.gz"


def index_prefix(log: str) -> str:
    return f"index/v=1/log={log}/"


def commit_key(log: str, number: int) -> str:
    return f"{index_prefix(log)}{number:012d}.json.gz"


def pending_key(log: str) -> str:
    return f"{index_prefix(log)}pending.json.gz"


class BadObject(ValueError):
    """An object whose content is not what its key promises."""


class _CheckpointBody(msgspec.Struct):
    v: int
    stream: str
    epoch: int
    seq: int
    cursor: str
    shard: int
    ts_snapshot: int
    state: msgspec.Raw


_decode_checkpoint = msgspec.json.Decoder(_CheckpointBody).decode


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The object's bytes: gzip JSON. Takes tens of milliseconds for a large book."""
    place = (*checkpoint.position[:2], checkpoint.cursor, checkpoint.shard)
    state = msgspec.Raw(checkpoint.state)
    body = _CheckpointBody(1, str(checkpoint.key), *place, checkpoint.ts_snapshot, state)
    # Level 1 is several times faster than 6 and gives away a sixth of the size.
    return gzip.compress(msgspec.json.encode(body), 1, mtime=0)


def unpack_checkpoint(stored: bytes) -> Checkpoint:
    """Read a checkpoint object. Raises BadObject when it is not one."""
    try:
        body = _decode_checkpoint(unpacked(stored))
        key, position = StreamKey.parse(body.stream), Position(body.epoch, body.seq)
        state = bytes(body.state)
        return Checkpoint(key, position, body.cursor, body.shard, body.ts_snapshot, state)
    # InvalidSubject, DecodeError and zlib's error have no common root; all mean the same here.
    except Exception as error:
        raise BadObject(f"not a checkpoint: {error!r}") from error
