"""What the gateway knows of a log record: its place in the chain, and what clients are sent. Pure.

A record is decoded as a whole once, where it comes in: whoever handles a `StreamRecord` later
(windows, conflation, folding, a reset's messages) finds nothing in it that cannot be read. One that
names its place and has a type or a body that is not known, as a newer normalizer may write it, is
of kind `unknown`: nothing follows it, so that its stream is given anew behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from services.common.domain.fold import BookState, check_state
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import (
    RECORD_VERSION,
    UNCHAINED,
    UNREADABLE,
    LogRecord,
    Reset,
    Snapshot,
    Status,
    Tick,
    decode_head,
    decode_record,
    encode,
    to_raw,
)

# Levels (both sides together) in one part of a book's snapshot: about 50 KB of JSON.
LEVELS_PER_PART = 2000
# Above any `sub` a stream has: "after this seq and all statuses that belong to it".
LAST_SUB = (1 << 62) - 1

SnapshotReason = Literal["subscribe", "resync", "reset", "catch_up"]
# `late` is beside the chain as statuses are, and sent to those only who ask for it.
Kind = Literal["tick", "reset", "status", "late", "unknown"]
Unreadable = Literal["unknown_type", "bad_body", "not_a_record"]

_INCR = b'{"type":"incr","tick":'

_TYPES = {"tick", "reset", *UNCHAINED}

_decode_reset = msgspec.json.Decoder(Reset).decode
_decode_book = msgspec.json.Decoder(BookState).decode


class StreamRecord:
    """One record of a stream.

    It is `chained` if it advances `seq` (ticks and resets do, statuses and late trades do not), and
    `plain` if it is one message, the same for everyone.
    """

    __slots__ = (
        *("_at", "_held", "chained", "kind", "plain", "position", "prev"),
        *("repair", "size", "trace", "ts_ingest", "unreadable"),
    )

    def __init__(self, payload: bytes) -> None:
        """Read a record.

        Raises:
            msgspec.DecodeError: it is not one: not even its place can be read.
        """
        self._held = payload
        self._at = -1
        self.size = len(payload)  # bytes
        # Of a record that is traced: when it came here (µs), and the headers it came with.
        self.trace: tuple[int, Mapping[str, str]] | None = None
        self.unreadable: Unreadable | None = None  # why it is `unknown`; None for all others
        self.repair: str | None = None
        # `seq` of the record before it in the chain; one that is not in the chain has none.
        self.prev: int | None = None
        self.kind: Kind
        try:
            record = _decode(payload)
        except UNREADABLE:
            self._read_head(payload)
            return
        self.ts_ingest = record.ts_ingest  # when the ingestor received it, microseconds
        # Nearly all are ticks, and each is read here once.
        if isinstance(record, Tick):
            self.kind = "tick"
            self.chained = self.plain = True
            self.prev = record.prev
            self.position = Position(record.epoch, record.seq)
        elif isinstance(record, Reset):
            self.kind = "reset"
            self.chained, self.plain = True, False
            self.prev = record.prev
            self.position = Position(record.epoch, record.seq)
            self.repair = record.repair
        else:
            self.kind = "status" if isinstance(record, Status) else "late"
            self.chained, self.plain = False, self.kind == "status"
            self.position = Position(record.epoch, record.seq, record.sub)

    def _read_head(self, payload: bytes) -> None:
        try:
            head = decode_head(payload)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        self.kind = "unknown"
        self.unreadable = "bad_body" if head.type in _TYPES else "unknown_type"
        self.chained = True
        self.plain = False
        self.position = Position(head.epoch, head.seq, head.sub)
        self.prev = head.prev
        self.ts_ingest = head.ts_ingest

    @property
    def payload(self) -> bytes:
        """The record, byte for byte as the normalizer wrote it."""
        at = self._at
        return self._held if at < 0 else self._held[at : at + self.size]

    def keep_in(self, frames: bytes, end: int) -> None:
        """Share the bytes of `frames`, in which the frame of its one message ends at `end`."""
        self._held = frames
        self._at = end - self.size - (1 if self.kind == "tick" else 0)

    @property
    def before(self) -> Position:
        """The position it comes right after, as far as the record itself can tell."""
        epoch, seq, sub = self.position
        if not self.chained:
            return Position(epoch, seq, sub - 1)
        # A predecessor that is not smaller belongs to an epoch before: this one begins here.
        return Position(epoch, self.prev if self.prev is not None and self.prev < seq else 0)

    def follows(self, head: Position | None) -> bool:
        """Whether this record directly follows the chain's `head` (None: nothing before it)."""
        if self.unreadable is not None:
            return False
        if head is None:
            return self.prev is None
        return self.prev == head.seq and self.position > head

    def messages(self, depth: int = 0, late: bool = False) -> list[bytes]:
        """What a client in `full` mode is sent for it; the arguments are those of its `View`."""
        if self.kind == "tick":
            return [_INCR + self.payload + b"}"]
        if self.kind == "status":
            return [self.payload]
        if self.kind == "reset":
            return reset_messages(self.payload, depth)
        if self.kind == "late" and late:
            return [self.payload]
        return []


def _decode(payload: bytes) -> LogRecord:
    """The record, which can be used whole.

    Raises:
        UNREADABLE: it cannot.
    """
    record: LogRecord = decode_record(payload)
    if not payload.isascii():
        # Fields that are not known are passed on unread, and a text frame has to be text.
        payload.decode()
    if isinstance(record, Tick):
        return record
    if isinstance(record, Reset) and record.repair == "snapshot":
        if record.state is None:
            raise msgspec.ValidationError("a repair by snapshot, and no state")
        check_state(record.channel, bytes(record.state))
    return record


def reset_messages(payload: bytes, depth: int) -> list[bytes]:
    """The `reset` without its state, then the state as a `snapshot` where the reset has one."""
    record = _decode_reset(payload)
    messages = [encode(msgspec.structs.replace(record, state=None))]
    if record.repair == "snapshot" and record.state is not None:
        key = StreamKey(record.venue, record.channel, record.product)
        position = Position(record.epoch, record.seq)
        snapshot = snapshot_at(key, record.shard, position, record.ts_ingest, record.state)
        messages += snapshot_messages(snapshot, "reset", depth)
    return messages


def snapshot_at(
    key: StreamKey, shard: int, position: Position, ts_us: int, state: bytes | msgspec.Raw
) -> Snapshot:
    """The state of a stream behind the record at `position`, taken at `ts_us`."""
    epoch, seq, _ = position
    return Snapshot(RECORD_VERSION, *key, shard, epoch, seq, ts_us, msgspec.Raw(state))


def snapshot_messages(snapshot: Snapshot, reason: SnapshotReason, depth: int = 0) -> list[bytes]:
    """The `snapshot` message, a book's in parts of at most `LEVELS_PER_PART` levels.

    `depth` keeps a book's best levels on each side; 0 keeps all.
    """
    if snapshot.channel != "book":
        return [_snapshot_message(snapshot, reason, {})]
    state = _decode_book(bytes(snapshot.state))
    bids = state.bids[:depth] if depth else state.bids
    asks = state.asks[:depth] if depth else state.asks
    half = LEVELS_PER_PART // 2
    starts = range(0, max(1, len(bids), len(asks)), half)
    messages: list[bytes] = []
    for part, at in enumerate(starts, start=1):
        levels = to_raw({"bids": bids[at : at + half], "asks": asks[at : at + half]})
        partial = msgspec.structs.replace(snapshot, state=levels)
        more = {"part": part, "last": part == len(starts)}
        messages.append(_snapshot_message(partial, reason, more))
    return messages


def _snapshot_message(snapshot: Snapshot, reason: str, more: dict[str, Any]) -> bytes:
    return encode({"type": "snapshot", "reason": reason, **more, "snapshot": snapshot})


def stream_fields(key: StreamKey) -> dict[str, str]:
    """How a stream is named inside client messages."""
    return {"venue": key.venue, "channel": key.channel, "product": key.product}
