"""The client protocol, outbound: what each server message looks like, for documents and tests.

The hot path writes these as bytes; `tests/test_documents.py` proves that what is sent fits.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.common.models import Late, Micros, Reset, Snapshot, Tick
from services.common.models import Status as LoggedStatus
from services.gateway.protocol import CommandId


class ServerMessage(BaseModel):
    """Clients ignore fields and types they do not know."""

    model_config = ConfigDict(populate_by_name=True)


class _Stream(ServerMessage):
    stream: str = Field(description="venue:channel:product")
    venue: str
    channel: str
    product: str


class ErrorBody(ServerMessage):
    code: int
    name: str
    message: str
    retry: Literal["no", "after", "snapshot", "reconnect"]
    retry_after_ms: int | None = None


class PositionWarning(ErrorBody):
    """What of a position is not served, as an error would say it."""

    cause: Literal["age", "archive", "expired"] | None = Field(
        None,
        description="Of a backfill that leaves something out: it is older than `max_minutes`, the "
        "archive did not answer, or it expired before it was read.",
    )
    oldest_seq: int | None = Field(None, description="The oldest that can be, or is, given.")
    max_minutes: int | None = None


class Welcome(ServerMessage):
    """First frame."""

    type: Literal["welcome"]
    session: str
    protocol: str
    server_time: Micros
    heartbeat_ms: int
    auth: Literal["ok", "required"]
    limits: dict[str, float]


class AuthOk(ServerMessage):
    """The key was accepted."""

    type: Literal["auth"]
    id: CommandId | None = None
    ok: Literal[True]
    limits: dict[str, float]


class Result(_Stream):
    ok: bool
    epoch: int | None = None
    seq: int | None = Field(None, description="The stream's head now.")
    start: Literal["live", "backfill", "snapshot"] | None = None
    mode: Literal["full", "latest"] | None = None
    max_rate: float | None = None
    depth: int | None = None
    late: bool | None = None
    error: ErrorBody | None = None
    warning: PositionWarning | None = Field(
        None,
        description="With `start` `snapshot`: why `from_seq` could not be served. With `backfill`: "
        "what is left out.",
    )


class Subscribed(ServerMessage):
    """The outcome for each stream; one bad product never fails the others.

    Of more than 200 streams it comes in parts, each followed by what those streams begin with.
    """

    type: Literal["subscribed"]
    id: CommandId | None = None
    part: int | None = None
    last: bool | None = None
    results: list[Result]


class Unsubscribed(Subscribed):
    """Nothing of these streams comes later."""

    type: Literal["unsubscribed"]  # type: ignore[assignment]  # another message, of the same form


class SnapshotMessage(ServerMessage):
    """Replaces all state of the stream; a book's comes in parts and counts when `last` is true."""

    type: Literal["snapshot"]
    reason: Literal["subscribe", "resync", "reset", "catch_up"]
    part: int | None = None
    last: bool | None = None
    snapshot: Snapshot


class Incr(ServerMessage):
    """One tick, byte for byte as the normalizer wrote it."""

    type: Literal["incr"]
    tick: Tick
    prev: int | None = Field(None, description="`latest` mode: the last seq this client was sent.")
    merged: int | None = Field(None, description="`latest` mode: how many ticks this stands for.")


class BackfillMessage(_Stream):
    """Frames the ordinary `incr` of a backfill."""

    type: Literal["backfill"]
    state: Literal["begin", "end"]
    from_: int = Field(alias="from", description="The position as it was asked for.")
    to: int | None
    count: int | None
    complete: bool = Field(
        description="Whether everything after `from` that is retained is given; of `begin`, as far "
        "as it is known by then."
    )
    warning: PositionWarning | None = Field(
        None, description="What is left out, when not `complete`."
    )


class GatewayEvidence(ServerMessage):
    """What is served is so old, by the time of receiving."""

    by: Literal["gateway"]
    age_ms: int


class Status(LoggedStatus):
    """A status of the log, or the gateway's own: `stale` when nothing comes through, and back."""

    # Wider than what a log may hold.
    evidence: str | GatewayEvidence  # type: ignore[assignment]


class Mode(_Stream):
    """How this stream is sent from now on."""

    type: Literal["mode"]
    from_: Literal["full", "latest", "catch_up"] = Field(alias="from")
    to: Literal["full", "latest", "catch_up"]
    reason: Literal["slow", "recovered", "quota", "request"]
    lag: int


class RateLimit(ServerMessage):
    """A command was not obeyed (`commands`), or a stream is conflated (`product`)."""

    type: Literal["rate_limit"]
    id: CommandId | None = None
    scope: Literal["commands", "product", "connection"]
    retry_after_ms: int
    product: str | None = None
    stream: str | None = None


class Heartbeat(ServerMessage):
    """Every `heartbeat_ms`."""

    type: Literal["hb"]
    server_time: Micros
    heads: dict[str, int]


class Pong(ServerMessage):
    """Answers `ping`."""

    type: Literal["pong"]
    id: CommandId | None = None
    ts: str | int | float | None
    server_time: Micros


class Drain(ServerMessage):
    """This gateway goes away; close 1012 follows."""

    type: Literal["drain"]
    deadline_ms: int
    reconnect_after_ms: tuple[int, int]
    resume: dict[str, dict[str, Any]]


class Error(ErrorBody):
    """Something could not be done; the connection lives on unless a close follows."""

    type: Literal["error"]
    id: CommandId | None = None
    stream: str | None = None


SERVER_MESSAGES: tuple[type[BaseModel], ...] = (
    Welcome,
    AuthOk,
    Subscribed,
    SnapshotMessage,
    Incr,
    BackfillMessage,
    Reset,
    Late,
    Status,
    Mode,
    RateLimit,
    Heartbeat,
    Pong,
    Unsubscribed,
    Drain,
    Error,
)
