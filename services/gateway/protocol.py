"""The client protocol `md.v1.json`, inbound: commands, error codes, rules of a session. Pure.

docs/protocol.md describes it for those who write clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.subjects import StreamKey
from services.common.wire import UNREADABLE

SUBPROTOCOL = "md.v1.json"
MAX_MESSAGE_BYTES = 64 * 1024
# A message up to this size is looked into for its id although its sender is over the rate.
_SHORT = 1024
_CURSOR = re.compile(r"(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})")

Retry = Literal["no", "after", "snapshot", "reconnect"]


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the table of errors: `retry` tells a client what to do."""

    code: int
    name: str
    retry: Retry


BAD_JSON = ErrorCode(1000, "bad_json", "no")
UNKNOWN_TYPE = ErrorCode(1001, "unknown_type", "no")
BAD_FIELD = ErrorCode(1002, "bad_field", "no")
TOO_LARGE = ErrorCode(1003, "too_large", "no")
AUTH_REQUIRED = ErrorCode(2000, "auth_required", "no")
KEY_INVALID = ErrorCode(2001, "key_invalid", "no")
NOT_ENTITLED = ErrorCode(2003, "not_entitled", "no")
ORIGIN_DENIED = ErrorCode(2004, "origin_denied", "no")
CONNECTION_QUOTA = ErrorCode(2005, "connection_quota", "after")
UNKNOWN_PRODUCT = ErrorCode(3000, "unknown_product", "no")
UNKNOWN_CHANNEL = ErrorCode(3001, "unknown_channel", "no")
NOT_SUBSCRIBED = ErrorCode(3003, "not_subscribed", "no")
SUBSCRIPTION_LIMIT = ErrorCode(3005, "subscription_limit", "no")
EPOCH_CHANGED = ErrorCode(4000, "epoch_changed", "snapshot")
TOO_OLD = ErrorCode(4001, "too_old", "snapshot")
FUTURE_POSITION = ErrorCode(4002, "future_position", "snapshot")
COMMAND_RATE = ErrorCode(5000, "command_rate", "after")
SLOW_CLOSED = ErrorCode(5002, "slow_closed", "reconnect")
INTERNAL = ErrorCode(6000, "internal", "reconnect")
BROKER_UNAVAILABLE = ErrorCode(6001, "broker_unavailable", "after")
OVERLOADED = ErrorCode(6002, "overloaded", "after")
DRAINING = ErrorCode(6003, "draining", "reconnect")

ERROR_CODES = [value for value in list(globals().values()) if isinstance(value, ErrorCode)]

CommandId = str | int | float
# The commands that may come before a valid key.
KEYLESS = frozenset(("auth", "ping"))


class Problem(Exception):
    """What is wrong with a command; it becomes an `error` message or a result's `error`."""

    def __init__(
        self, code: ErrorCode, message: str, *, id: CommandId | None = None, **more: Any
    ) -> None:
        self.code = code
        self.message = message
        self.id = id
        self.more = more
        super().__init__(f"{code.code} {code.name}: {message}")

    def kept(self) -> Problem:
        """The same, to be kept: without the frames it came through, which may hold it themselves.

        What holds each other is freed by the collector only, and with it all that the frames hold.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def body(self) -> dict[str, Any]:
        """Fields of the error, without `type` and `id`."""
        return {
            "code": self.code.code,
            "name": self.code.name,
            "message": self.message,
            "retry": self.code.retry,
            **self.more,
        }


def unavailable(message: str = "the log does not answer") -> Problem:
    """What has to be asked for does not answer; it may be tried again soon."""
    return Problem(BROKER_UNAVAILABLE, message, retry_after_ms=1000)


def epoch_changed(epoch: int, head: int) -> Problem:
    return Problem(EPOCH_CHANGED, f"the stream's epoch is {epoch}", epoch=epoch, head=head)


def too_old(oldest_seq: int) -> Problem:
    message = f"the oldest record that can be sent is {oldest_seq}"
    return Problem(TOO_OLD, message, oldest_seq=oldest_seq)


# Why a backfill has less than was asked for and is, or may be, retained: it is older than
# BACKFILL_MAX_MINUTES; the archive did not answer; it expired before it could be read.
LeftOut = Literal["age", "archive", "expired"]


def left_out(cause: LeftOut, oldest_seq: int | None, max_minutes: int = 0) -> dict[str, Any]:
    """The `warning` of a backfill that is not complete; `oldest_seq` is the first that is given."""
    if cause == "archive":
        problem = unavailable("the archive does not answer; what only it holds is left out")
    elif cause == "age":
        message = f"records older than {max_minutes} minutes are left out"
        problem = Problem(TOO_OLD, message, max_minutes=max_minutes)
    else:
        problem = Problem(TOO_OLD, "what follows the last record sent expired before it was read")
    return {**problem.body(), "cause": cause, "oldest_seq": oldest_seq}


Product = Annotated[str, Field(min_length=1, max_length=64)]
Channel = Annotated[str, Field(min_length=1, max_length=64)]
Position = Annotated[int, Field(ge=0, lt=2**63)]


class Command(BaseModel):
    """What every command has. Unknown fields are ignored, so that newer clients are understood."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: CommandId | None = Field(None, description="Any string or number; echoed in the answer.")


class _Streams(Command):
    venue: str = Field("coinbase", max_length=64)
    products: list[Product] = Field(
        default_factory=list, max_length=10_000, description="Product ids, for example BTC-USD."
    )
    product: Product | None = Field(None, description="One product, instead of `products`.")
    channels: list[Channel] = Field(default_factory=list, max_length=16)
    channel: Channel | None = Field(None, description="`ticker` when neither field is given.")

    @model_validator(mode="after")
    def _some_product(self) -> _Streams:
        if not self.products and self.product is None:
            raise ValueError("products: expected at least one product")
        return self

    @property
    def all_products(self) -> list[str]:
        """Each product once, in the order given."""
        return list(dict.fromkeys([*self.products, *([self.product] if self.product else [])]))

    @property
    def streams(self) -> list[StreamKey]:
        """Each stream once, channel by channel; `ticker` when no channel is given."""
        named = [*self.channels, *([self.channel] if self.channel else [])]
        channels = dict.fromkeys(named or ["ticker"])
        products = self.all_products
        return [StreamKey(self.venue, channel, one) for channel in channels for one in products]


class Subscribe(_Streams):
    type: Literal["subscribe"] = "subscribe"
    from_seq: Position | dict[Product, Position | None] | None = Field(
        None, description='"I hold N": everything after it is sent. 0 is the oldest retained.'
    )
    epoch: Position | None = Field(None, description="Epoch that `from_seq` belongs to.")
    cursor: str | dict[Product, str] | None = Field(
        None, description="A resume cursor from `drain`, instead of `from_seq` and `epoch`."
    )
    mode: Literal["full", "latest"] | None = Field(
        None, description="`full` (default): every record. `latest`: ticks are merged."
    )
    max_rate: float | None = Field(
        None, gt=0, le=1000, description="Messages a second for each stream; `latest` only."
    )
    depth: int | None = Field(None, ge=0, le=100_000, description="Book levels a side; 0 is all.")
    late: bool | None = Field(
        None, description="True: trades of an announced gap too, that were found afterwards."
    )
    snapshot: bool = Field(True, description="False: begin with the next record.")
    on_unrecoverable: Literal["snapshot", "error"] = Field(
        "snapshot", description="What to do when `from_seq` cannot be served."
    )
    batch: bool | None = Field(
        None, description="True: frames may hold a JSON array of messages, in order."
    )

    def position_of(self, product: str) -> tuple[int | None, int | None]:
        """(from_seq, epoch) asked for one product.

        Raises:
            Problem: the cursor is none of ours.
        """
        cursor = self.cursor.get(product) if isinstance(self.cursor, dict) else self.cursor
        if cursor is not None:
            return parse_cursor(cursor)
        given = self.from_seq
        seq = given.get(product) if isinstance(given, dict) else given
        return seq, self.epoch if seq is not None else None


class Unsubscribe(_Streams):
    type: Literal["unsubscribe"] = "unsubscribe"


class Resync(_Streams):
    type: Literal["resync"] = "resync"


class Ping(Command):
    type: Literal["ping"] = "ping"
    ts: str | int | float | None = None


class Auth(Command):
    type: Literal["auth"] = "auth"
    api_key: str = Field(min_length=1, max_length=512)


COMMANDS: dict[str, type[Command]] = {
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "resync": Resync,
    "ping": Ping,
    "auth": Auth,
}


def make_cursor(epoch: int, seq: int) -> str:
    """A resume cursor: opaque to clients, valid at every gateway."""
    return f"{epoch}.{seq}"


def parse_cursor(cursor: str) -> tuple[int, int]:
    """(seq, epoch) of a resume cursor. Raises Problem when it is none of ours."""
    found = _CURSOR.fullmatch(cursor)
    epoch, seq = (-1, -1) if found is None else map(int, found.groups())
    if not (0 <= epoch < 2**63 and 0 <= seq < 2**63):
        message = "cursor: expected a cursor from a `drain` message"
        raise Problem(BAD_FIELD, message, field="cursor")
    return seq, epoch


def check_size(text: str) -> None:
    """Check what can be told of a message without reading it.

    Raises:
        Problem: it is too large.
    """
    if len(text) > MAX_MESSAGE_BYTES or len(text.encode(errors="replace")) > MAX_MESSAGE_BYTES:
        raise Problem(TOO_LARGE, f"messages have at most {MAX_MESSAGE_BYTES} bytes")


def parse_json(text: str) -> dict[str, Any]:
    """The JSON object in a message. Raises Problem when it is too large, no JSON, or no object."""
    check_size(text)
    try:
        # As bytes: half a surrogate pair in a text is then no JSON like any other.
        value = msgspec.json.decode(text.encode(errors="surrogatepass"))
    except UNREADABLE as error:
        raise Problem(BAD_JSON, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Problem(BAD_JSON, "expected one JSON object in a frame")
    return value


def id_of(value: dict[str, Any]) -> CommandId | None:
    """The command's id, if it has one that can be echoed."""
    found = value.get("id")
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    return found if not isinstance(found, str) or len(found) <= 256 else None


def id_in(text: str) -> CommandId | None:
    """The id of a command that is not going to be obeyed, if that is cheap to tell."""
    if len(text) > _SHORT:
        return None
    try:
        return id_of(parse_json(text))
    except Problem:
        return None


def streams_named(value: dict[str, Any]) -> int:
    """How many (product, channel) pairs a command names, before anything of it is looked at."""
    found = 1
    for many, one in (("products", "product"), ("channels", "channel")):
        listed = value.get(many)
        found *= max(1, (len(listed) if isinstance(listed, list) else 0) + (one in value))
    return found


def echo(id: CommandId | None) -> dict[str, CommandId]:
    """The `id` field of an answer, where the command had one."""
    return {} if id is None else {"id": id}


def parse_command(value: dict[str, Any]) -> Command:
    """The command in a message.

    Raises:
        Problem: its type is unknown or a field is wrong; the message names the field.
    """
    id = id_of(value)
    kind = value.get("type")
    if not isinstance(kind, str):
        raise Problem(UNKNOWN_TYPE, "type: expected a string", id=id)
    model = COMMANDS.get(kind)
    if model is None:
        known = ", ".join(COMMANDS)
        raise Problem(UNKNOWN_TYPE, f"type: expected one of {known}", id=id)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Where a field may be of several kinds each has an error; the one that saw most tells most.
        found = error.errors(include_url=False, include_input=False)
        places = [_place(one["loc"], value) for one in found]
        first, place = max(zip(found, places, strict=True), key=lambda one: len(one[1]))
        field = ".".join(place)
        text = str(first["msg"]).removeprefix("Value error, ")
        # A rule over several fields names the field itself, before the colon.
        message = f"{field}: {text}" if field else text
        raise Problem(BAD_FIELD, message, id=id, field=re.split("[.:]", message)[0]) from error


def _place(location: tuple[int | str, ...], value: Any) -> list[str]:
    """The field, and what is inside it, that an error is about, as the message itself names them.

    pydantic's location also names types, which are nobody's business but ours.
    """
    place = [str(part)[:64] for part in location[:1]]
    inside: Any = value.get(location[0]) if location else None
    for part in location[1:]:
        listed = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
        if listed or (isinstance(inside, dict) and part in inside):
            inside = inside[part]
            place.append(str(part)[:64])
    return place
