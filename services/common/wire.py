"""Records as they travel between services: the hot-path form of `services.common.models`.

`models.py` is the documented truth (pydantic, JSON Schema, validation at the edges). These
msgspec structs read and write the same JSON several times faster and are what the services use
per message; `tests/test_models.py` proves that both describe the same records.

Everything here is JSON, one object. Readers ignore fields they do not know. Times are integer
microseconds since the Unix epoch, UTC; prices and sizes are decimal strings as the venue sent them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from services.common.subjects import StreamKey

RECORD_VERSION = 1

# The last receive time (µs, in the year 2286) that an archive object's name has digits for.
LAST_RECEIVED = 10**16 - 1

RawKind = Literal["frame", "resync", "gap", "status", "late", "pulse"]
# Kinds and types of records that do not advance `seq`: `sub` counts them since that `seq`.
UNCHAINED = frozenset({"status", "late"})
Repair = Literal["refilled", "snapshot", "none"]
StreamState = Literal["live", "quiet", "stale", "resyncing", "down"]

if TYPE_CHECKING:
    _OptionalRaw = msgspec.Raw | None
else:
    # msgspec decodes no object into `Raw | None`; an absent field still becomes the default, None.
    _OptionalRaw = msgspec.Raw


class Missed(msgspec.Struct, frozen=True, gc=False, rename={"from_": "from"}, omit_defaults=True):
    """What is missing, both ends included; `count` where the numbering is contiguous."""

    from_: int
    to: int
    count: int | None = None


class OpenGap(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An announced gap whose trades are still asked for.

    `missed` is the range that was announced, `since` when (µs). `left` is what of it is missing
    still; absent: all of it.
    """

    missed: Missed
    since: int
    left: list[Missed] | None = None


class RawRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the ingestor writes: one venue message, or one fact it knows about the stream.

    (`epoch`, `seq`, `sub`) is the record's position in its stream, strictly increasing; `prev` is
    the `seq` before it, null when the ingestor holds none. `frame`: `body` is the venue's message,
    untouched. `resync`: `body` is a `ResyncBody`; `seq` advances. `gap`: `body` is a `GapBody`, and
    `seq` is the last position that is missing. `status`: `body` is a `StatusBody`. `late`: `body`
    is a `LateBody`. With these two `seq` stays, and `sub` counts them since that `seq`. `prev_sub`
    is the `sub` of the record before, where the writer says it; with `prev` it proves that none of
    those is missing either.

    `pulse`: `body` is a `PulseBody`. It belongs to no stream (`subjects.pulse_key`); its `seq` is
    the time, and nothing follows from the one before.

    `changes` stands beside a `frame` that speaks of single orders (Coinbase's `full`, an object,
    or `level3`, an array): what it changed in the book of levels, `[side, price, new_size]`. The
    venue's own sequence stands in the `body`.

    While trades of announced gaps are asked for, every record of the stream but a `frame` lists
    them in `open_gaps` (as they are after that record), and every `frame` names in `open_at` the
    (`seq`, `sub`) of the newest one that does: the last record of a stream tells what is open.
    """

    v: int
    kind: RawKind
    venue: str
    channel: str
    product: str
    epoch: int
    seq: int
    sub: int
    prev: int | None
    ts_recv: int
    line: str
    body: msgspec.Raw
    prev_sub: int | None = None
    changes: list[tuple[str, str, str]] | None = None
    open_gaps: list[OpenGap] | None = None
    open_at: tuple[int, int] | None = None


class ResyncBody(msgspec.Struct, frozen=True):
    """`message` is what the venue said now: a level 2 `snapshot`, a REST book, a REST ticker."""

    cause: str
    repair: Repair
    message: msgspec.Raw
    missed: Missed | None = None


class GapBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """`message` is the state to go on from: of `trades` a JSON array of those before the gap."""

    cause: str
    missed: Missed
    message: _OptionalRaw = None


class StatusBody(msgspec.Struct, frozen=True):
    state: StreamState
    since: int
    evidence: str


class LateBody(msgspec.Struct, frozen=True):
    """What became known of a gap that was announced before as `missed`.

    `messages` are trades of it, ascending, as the venue's REST API tells them. `open` is what is
    missing still and goes on being asked for. `lost` is what this record gives up, because of
    `reason`: the venue has denied it, or cannot be expected to hold it any more.
    """

    missed: Missed
    messages: list[msgspec.Raw]
    open: list[Missed]
    lost: list[Missed]
    reason: str


class PulseBody(msgspec.Struct, frozen=True):
    """The products that the ingestor hears of now; none where a line says that it writes."""

    products: list[str]


class Trade(msgspec.Struct, frozen=True, gc=False):
    """`side` is the taker's, `buy` or `sell` (a Coinbase match's own `side` is the maker's).

    It is null where the venue does not say: in the state taken from a REST ticker.
    """

    price: str
    size: str
    side: str | None
    trade_id: int
    time: int


class Level(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    price: str
    size: str | None = None


class Stats24h(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    open: str | None = None
    high: str | None = None
    low: str | None = None
    volume: str | None = None


class Fields(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a tick says; each channel gives some of it.

    `changes` are `[side, price, new_size]` with side `buy` (bids) or `sell` (asks); a size equal
    to zero removes the level.
    """

    last_trade: Trade | None = None
    best_bid: Level | None = None
    best_ask: Level | None = None
    stats_24h: Stats24h | None = None
    volume_30d: str | None = None
    changes: list[tuple[str, str, str]] | None = None


class Positioned(msgspec.Struct, frozen=True, gc=False):
    """What every record and state of a stream begins with: which stream, and where in it."""

    v: int
    venue: str
    channel: str
    product: str
    shard: int
    epoch: int
    seq: int


class Tick(Positioned, frozen=True, tag_field="type", tag="tick", omit_defaults=True):
    """One event of a stream, chained: `prev` is the `seq` of the record before it.

    `prev_sub` is there when statuses stand between the two: the `sub` of the last of them.
    """

    prev: int | None
    venue_seq: int | None
    ts_event: int
    ts_ingest: int
    fields: Fields
    prev_sub: int = 0


class Reset(Positioned, frozen=True, tag_field="type", tag="reset", omit_defaults=True):
    """The stream starts over here: what was held before is not to be trusted.

    `repair`: `snapshot` - `state` holds the whole new state (shape as in `Snapshot.state`), and is
    all that is written. Older records may also say `refilled` - the missing records follow - and
    `none` - `missed` is lost for good.
    """

    prev: int | None
    ts_event: int
    ts_ingest: int
    cause: str
    repair: Repair
    missed: Missed | None = None
    state: _OptionalRaw = None
    prev_sub: int = 0

    @classmethod
    def at(
        cls,
        key: StreamKey,
        shard: int,
        place: tuple[int, int],
        prev: int | None,
        times: tuple[int, int],
        cause: str,
        state: msgspec.Raw | None,
        *,
        missed: Missed | None = None,
        prev_sub: int = 0,
    ) -> Self:
        """A reset of the stream `key` at `place` (epoch, seq); `times`: of the event, of receipt.

        Without a `state` it says that what was held is lost for good, as only older writers did.
        """
        repair: Repair = "none" if state is None else "snapshot"
        begin = (RECORD_VERSION, *key, shard, *place)
        return cls(*begin, prev, *times, cause, repair, missed, state, prev_sub)

    def __post_init__(self) -> None:
        if self.state is not None and bytes(self.state) == b"null":
            msgspec.structs.force_setattr(self, "state", None)


class Status(Positioned, frozen=True, tag_field="type", tag="status"):
    """Whether silence means a quiet market or a broken feed. Does not advance `seq`."""

    sub: int
    state: StreamState
    since: int
    evidence: str
    ts_ingest: int


class Late(Positioned, frozen=True, tag_field="type", tag="late"):
    """Trades of a gap that were found after it was announced. Does not advance `seq`.

    `missed` is the range that was announced. Each of `ticks`, ascending, stands at its own place:
    `seq` is its trade id and `prev` the id before, so that put where the gap is they complete the
    chain. `open` is what is missing still; nothing open means that the gap is closed. `lost` is
    what this record says not to come any more, and `reason` why; without ticks and losses it says
    that the gap is still open.
    """

    sub: int
    missed: Missed
    ticks: list[Tick]
    open: list[Missed]
    lost: list[Missed]
    reason: str
    ts_ingest: int


class Pulse(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="pulse"):
    """An ingestor heard of these products of the shard at `ts_ingest`, and all before it is here.

    It takes the way of the ticks, so its age is that of whatever the way brings, also in a quiet
    market. It is in no stream's chain.
    """

    v: int
    venue: str
    line: str
    shard: int
    ts_ingest: int
    products: list[str]


class Snapshot(Positioned, frozen=True, tag_field="type", tag="snapshot"):
    """The state of a stream after the record at (`epoch`, `seq`).

    `state` for `ticker`: the `Fields` merged; for `trades`: `{"trades": [Trade, ...]}`, oldest
    first; for `book`: `{"bids": [[price, size], ...], "asks": [...]}`, best first.
    """

    ts_snapshot: int
    state: msgspec.Raw


class Head(msgspec.Struct, frozen=True, gc=False):
    """The few fields that verifying the chain needs; the rest is not decoded."""

    type: str
    venue: str
    channel: str
    product: str
    epoch: int
    seq: int
    prev: int | None = None
    sub: int = 0
    ts_ingest: int = 0
    repair: str | None = None


class Parked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record that could not be understood or stored, as published on `market.invalid`."""

    v: int
    reason: str
    subject: str
    cursor: str
    ts_recv: int
    original: str
    # What readers of the stream go without because of it: who writes the raw log makes it good.
    missed: Missed | None = None


LogRecord = Tick | Reset | Status | Late

# What reading bytes may raise: msgspec checks their text and their depth, and raises Python's own
# errors for those. Whoever reads what another process wrote catches all of these.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

encoder = msgspec.json.Encoder()
encode = encoder.encode
decode_raw = msgspec.json.Decoder(RawRecord).decode
decode_head = msgspec.json.Decoder(Head).decode
decode_record = msgspec.json.Decoder(LogRecord).decode
decode_pulse = msgspec.json.Decoder(Pulse).decode
decode_tick = msgspec.json.Decoder(Tick).decode


def to_raw(value: Any) -> msgspec.Raw:
    """Encode `value` for embedding where a field is `Raw`."""
    return msgspec.Raw(encode(value))
