"""What the logs, the rows and the archive hold, and whether it is the same."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import msgspec
from market_data_fanout_client.chain import Verdict

from services.common.domain.fold import Fold
from services.common.stores.index import Commit, unpack_commit
from services.common.stores.layout import TICKS, commit_key, unpack_checkpoint
from services.common.stores.rows import BOOK_DEPTH, row_from_item
from services.common.subjects import StreamKey, is_pulse, key_of, tick_log
from services.common.wire import Reset, Tick, decode_record
from tests.simulation.nats_model.server import ModelServer
from tests.simulation.stores.opened import Stores
from tools.stack.truth import Held

Lines = dict[StreamKey, list[bytes]]


class Logs:
    """Every tick record that a log ever held, but not what a server lost and nobody wrote again.

    Also after the log let go of it.
    """

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._seen: dict[str, dict[int, tuple[str, bytes]]] = {}

    def look(self) -> None:
        """Take in what is new; often enough that nothing is dropped between two looks."""
        for name, stream in self._server.jetstream.streams.items():
            seen = self._seen.setdefault(name, {})
            if stream.lost_from:
                for number in [number for number in seen if number >= stream.lost_from]:
                    del seen[number]
                stream.lost_from = 0
            for number in range(max(seen, default=0) + 1, stream.last + 1):
                record = stream.records.get(number)
                if record is not None and not is_pulse(record.subject):
                    seen[number] = (record.subject, record.payload)

    def ticks(self) -> Lines:
        """Each stream's records, in order."""
        self.look()
        lines: Lines = {}
        for name, seen in self._seen.items():
            if "_TICK_" in name:
                for subject, payload in seen.values():
                    lines.setdefault(key_of(subject), []).append(payload)
        return lines


class Archive:
    """The bucket of an archive, as its index tells it and as it lies there."""

    def __init__(self, stores: Stores) -> None:
        self._objects = stores.buckets.buckets.get(stores.settings.s3_bucket, {})

    def commits(self, log: str) -> list[Commit]:
        found: list[Commit] = []
        while (stored := self._objects.get(commit_key(log, len(found) + 1))) is not None:
            found.append(unpack_commit(stored.content))
        return found

    def _index(self, shards: int) -> list[str]:
        return [
            entry.key
            for shard in range(shards)
            for commit in self.commits(tick_log(shard))
            for entry in commit.objects
        ]

    def indexed(self, shards: int) -> Lines:
        """Each stream's records by the index, in order."""
        return self._lines(self._index(shards))

    def lying(self, shards: int) -> Lines:
        """Each stream's records in all objects there are, in the order of their names.

        Of objects that begin in the same microsecond, the index has the order (docs/archive.md).
        """
        index = {key: number for number, key in enumerate(self._index(shards))}
        keys = [key for key in self._objects if key.startswith(f"{TICKS}/")]
        return self._lines(sorted(keys, key=lambda key: (_begin(key), index.get(key, -1), key)))

    def _lines(self, keys: list[str]) -> Lines:
        lines: Lines = {}
        for key in keys:
            stored = self._objects.get(key)
            for line in gzip.decompress(stored.content).splitlines() if stored else ():
                of = msgspec.json.decode(line, type=_Place)
                lines.setdefault(StreamKey(of.venue, of.channel, of.product), []).append(line)
        return lines

    def checkpoint(self, key: str) -> bytes | None:
        """The state of a checkpoint; None when it is gone."""
        stored = self._objects.get(key)
        return unpack_checkpoint(stored.content).state if stored is not None else None


def _begin(key: str) -> tuple[str, str]:
    """An object's folder, and the time of its first record."""
    folder, _, name = key.rpartition("/")
    return folder, name.partition(".")[0]


class _Place(msgspec.Struct):
    venue: str
    channel: str
    product: str


def archive_differs(
    logs: Lines,
    archive: Archive,
    shards: int,
    *,
    names_in_order: bool = True,
    nothing_left_lying: bool = True,
) -> list[str]:
    """How the archive differs from what the logs were given, by its index and as it lies there.

    Without `names_in_order` nothing is said of the order as it lies, and without
    `nothing_left_lying` a record may lie there twice.
    """
    wrong = _lines_differ("by its index", logs, archive.indexed(shards))
    lying = archive.lying(shards)
    if not nothing_left_lying:
        lying = {key: list(dict.fromkeys(lines)) for key, lines in lying.items()}
    if not names_in_order or not nothing_left_lying:
        lying = {key: sorted(lines) for key, lines in lying.items()}
        logs = {key: sorted(lines) for key, lines in logs.items()}
    return wrong + _lines_differ("as it lies", logs, lying)


def _lines_differ(how: str, logs: Lines, lines: Lines) -> list[str]:
    wrong = []
    for key in sorted(logs.keys() | lines.keys()):
        due, there = logs.get(key, []), lines.get(key, [])
        if there == due:
            continue
        missing, more = len(set(due) - set(there)), len(set(there) - set(due))
        twice = len(there) - len(set(there))
        order = "" if missing or more or twice else ", in another order"
        wrong.append(
            f"the archive of {key} {how} has {missing} missing, {more} more and {twice} "
            f"twice of {len(due)}{order}"
        )
    return wrong


def rows_differ(logs: Lines, stores: Stores, archive: Archive) -> list[str]:
    """How the rows and checkpoints differ from the fold of what the logs were given."""
    rows = stores.tables.tables.get(stores.settings.ddb_table, {})
    return [
        f"the row of {key} {text}"
        for key, payloads in sorted(logs.items())
        if (text := _row_differs(key, payloads, rows.get(str(key)), archive)) is not None
    ]


def _row_differs(
    key: StreamKey, payloads: list[bytes], item: Mapping[str, Any] | None, archive: Archive
) -> str | None:
    fold, whole = Fold(key), key.channel != "book"
    for payload in payloads:
        record = decode_record(payload)
        if isinstance(record, Tick | Reset):
            fold.apply(record)
            if isinstance(record, Reset):
                whole = whole or record.state is not None
    if fold.position is None or not whole:
        return None
    if item is None:
        return "is missing"
    row = row_from_item(item)
    if row.position != fold.position:
        return f"is at {row.position}, the log at {fold.position}"
    if row.state != fold.state(BOOK_DEPTH):
        return "has another state than the log at its position"
    if key.channel != "book":
        return None
    if row.checkpoint is None:
        return "names no checkpoint"
    if archive.checkpoint(row.checkpoint) != fold.state():
        return f"names {row.checkpoint}, which is not the book at {fold.position}"
    return None


def held_in(lines: Lines) -> Held:
    """What a subscriber would hold that was sent these records."""
    held = Held()
    for payloads in lines.values():
        for payload in payloads:
            record = msgspec.json.decode(payload)
            message = {"type": "incr", "tick": record} if record["type"] == "tick" else record
            held.take(message, Verdict.APPLY)
    return held
