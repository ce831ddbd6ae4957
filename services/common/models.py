"""The wire schema, documented and validating: the truth that `wire.py` follows.

Used at the edges (HTTP answers, OpenAPI and AsyncAPI, client messages, tests). Unknown fields of
records are ignored, as every reader must; unknown fields of client messages are too, so that an
older server accepts a newer client.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.common.domain.decimals import PATTERN as DECIMAL_PATTERN
from services.common.wire import RawKind, Repair, StreamState

Decimalish = Annotated[
    str,
    Field(
        pattern=f"^{DECIMAL_PATTERN}$",
        description="Decimal string as the venue sent it; rarely with an exponent (`5.1e-7`).",
    ),
]
Micros = Annotated[int, Field(description="Microseconds since the Unix epoch, UTC.")]
Seq = Annotated[int, Field(ge=0, description="Position inside the epoch; strictly increasing.")]
Epoch = Annotated[int, Field(ge=0, description="Identity of the stream's numbering.")]


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Missed(Record):
    from_: int = Field(alias="from", description="First missing position.")
    to: int = Field(description="Last missing position.")
    count: int | None = Field(None, description="How many, where the numbering is contiguous.")


class OpenGap(Record):
    missed: Missed = Field(description="The range that was announced.")
    since: Micros
    left: list[Missed] | None = Field(None, description="Missing still; absent: all of it.")


class RawRecord(Record):
    v: Literal[1] = 1
    kind: RawKind
    venue: str
    channel: str
    product: str
    epoch: Epoch
    seq: Seq
    sub: int
    prev: int | None
    ts_recv: Micros
    line: str
    body: Any
    prev_sub: int | None = None
    changes: list[tuple[Literal["buy", "sell"], Decimalish, Decimalish]] | None = None
    open_gaps: list[OpenGap] | None = None
    open_at: tuple[int, int] | None = None


class ResyncBody(Record):
    cause: str
    repair: Repair
    message: Any
    missed: Missed | None = None


class GapBody(Record):
    cause: str
    missed: Missed
    message: Any = None


class StatusBody(Record):
    state: StreamState
    since: Micros
    evidence: str


class LateBody(Record):
    missed: Missed
    messages: list[Any]
    open: list[Missed]
    lost: list[Missed]
    reason: str


class PulseBody(Record):
    products: list[str]


class Trade(Record):
    price: Decimalish
    size: Decimalish
    side: Literal["buy", "sell"] | None = Field(
        description="The taker's side; null where the venue does not say (a REST ticker)."
    )
    trade_id: int
    time: Micros


class Level(Record):
    price: Decimalish
    size: Decimalish | None = None


class Stats24h(Record):
    open: Decimalish | None = None
    high: Decimalish | None = None
    low: Decimalish | None = None
    volume: Decimalish | None = None


class Fields(Record):
    last_trade: Trade | None = None
    best_bid: Level | None = None
    best_ask: Level | None = None
    stats_24h: Stats24h | None = None
    volume_30d: Decimalish | None = None
    changes: list[tuple[Literal["buy", "sell"], Decimalish, Decimalish]] | None = None


class Positioned(Record):
    v: Literal[1] = 1
    venue: str
    channel: str
    product: str
    shard: int
    epoch: Epoch
    seq: Seq


class Tick(Positioned):
    type: Literal["tick"] = "tick"
    prev: int | None = Field(description="`seq` of the record before; null for the first.")
    venue_seq: int | None = Field(
        description="The venue's own sequence, where its message has one."
    )
    ts_event: Micros
    ts_ingest: Micros
    fields: Fields
    prev_sub: int = Field(0, description="`sub` of the last status between `prev` and this.")


class Reset(Positioned):
    type: Literal["reset"] = "reset"
    prev: int | None
    ts_event: Micros
    ts_ingest: Micros
    cause: str
    repair: Repair
    missed: Missed | None = None
    state: dict[str, Any] | None = None
    prev_sub: int = Field(0, description="`sub` of the last status between `prev` and this.")


class Status(Positioned):
    type: Literal["status"] = "status"
    sub: int
    state: StreamState
    since: Micros
    evidence: str
    ts_ingest: Micros


class Late(Positioned):
    type: Literal["late"] = "late"
    sub: int
    missed: Missed = Field(description="The gap that these trades belong to, as announced.")
    ticks: list[Tick] = Field(
        description="Ascending; `seq` is the trade id and `prev` the id before it."
    )
    open: list[Missed] = Field(description="What is missing still; empty: the gap is closed.")
    lost: list[Missed] = Field(description="What will not come any more, by this record's word.")
    reason: str
    ts_ingest: Micros


class Pulse(Record):
    v: Literal[1] = 1
    type: Literal["pulse"] = "pulse"
    venue: str
    line: str
    shard: int
    ts_ingest: Micros
    products: list[str]


class Snapshot(Positioned):
    type: Literal["snapshot"] = "snapshot"
    ts_snapshot: Micros
    state: dict[str, Any]


class Parked(Record):
    v: Literal[1] = 1
    reason: str
    subject: str
    cursor: str
    ts_recv: Micros
    original: str
    missed: Missed | None = Field(
        None, description="What readers of the stream go without because of it."
    )
