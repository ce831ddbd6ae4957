"""What the HTTP API answers, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from services.common.models import Snapshot as SnapshotModel
from services.gateway.http.messages import ErrorBody, Status


class StreamInfo(BaseModel):
    """One stream; what this gateway does not follow now has null from `epoch` on.

    `state` is what subscribers were told last, by the log or by the gateway; `age_ms` is how old
    what is served is, by the time of receiving, also in a quiet market.
    """

    stream: str
    venue: str
    channel: str
    product: str
    shard: int
    epoch: int | None = None
    seq: int | None = None
    state: str | None = None
    last_ingest: int | None = None
    age_ms: int | None = None


class StateNow(SnapshotModel):
    """The state, and as a subscriber is told it whether that is current."""

    status: Status | None


class Ticks(BaseModel):
    """Records of one epoch after `from_seq`; go on with `next_from_seq` and `epoch`.

    `epoch` is null where the stream holds no record.
    """

    stream: str
    epoch: int | None
    from_seq: int
    next_from_seq: int
    at_head: bool
    ticks: list[dict[str, Any]]


class Refusal(ErrorBody):
    """A position that cannot be gone on from, as over WebSocket."""

    stream: str
    detail: str
    epoch: int | None = Field(None, description="With 4000: the epoch now.")
    head: int | None = Field(None, description="With 4000 and 4002: the newest seq.")
    oldest_seq: int | None = Field(None, description="With 4001: where the log begins.")


class GapReport(BaseModel):
    """The gaps of a product, or of all, stream by stream, oldest first.

    Each is the `reset` that announced it (`cause`, `missed`, `repair`), without its state, and what
    became of it: `state` (`open`: asked for still, `refilled`, or `lost`), `late_trades` (ticks
    that were found afterwards; at most 1,000 of `late_count`), `missing` and `lost` (ranges).
    `complete` False: there may be more, as the logs are long; ask again.
    """

    product: str | None
    complete: bool
    gaps: list[dict[str, Any]]


class StatusReport(BaseModel):
    """This gateway: what it serves and to how many."""

    version: str
    ready: bool
    draining: bool
    connections: int
    subscriptions: int
    queued_bytes: int
    stale_streams: int
    streams: list[StreamInfo]
