"""How records look on JetStream: message ids, cursors, delivered messages.

The `Nats-Msg-Id` header is `venue:channel:product:epoch:seq[:sub]` (`invalid:0:seq` for parked
input). It makes the server drop what it already has, and it is where a stored record's position is
read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from services.common.errors import PositionLost
from services.common.stream.broker import Message, Position, Record
from services.common.subjects import INVALID_LOG, INVALID_SUBJECT, key_of

MESSAGE_ID = "Nats-Msg-Id"
# "NATS/1.0\r\n" before the headers and "\r\n" after them.
_HEADER_FRAME = 12


@lru_cache(maxsize=65_536)
def _id_prefix(subject: str) -> str:
    return f"{INVALID_LOG}:" if subject == INVALID_SUBJECT else f"{key_of(subject)}:"


def message_id(subject: str, position: Position) -> str:
    epoch, seq, sub = position
    if sub:
        return f"{_id_prefix(subject)}{epoch}:{seq}:{sub}"
    return f"{_id_prefix(subject)}{epoch}:{seq}"


def position_of(subject: str, identity: str) -> Position:
    """The position inside a message id. A record without a readable one counts as the oldest."""
    prefix = _id_prefix(subject)
    if identity.startswith(prefix):
        parts = identity[len(prefix) :].split(":")
        if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
            return Position(*map(int, parts))
    return Position(0, 0)


def headers_of(record: Record) -> dict[str, str]:
    identity = message_id(record.subject, record.position)
    return {**record.headers, MESSAGE_ID: identity} if record.headers else {MESSAGE_ID: identity}


def wire_size(record: Record, headers: Mapping[str, str]) -> int:
    """Bytes that count against the server's `max_payload`."""
    text = sum(len(name) + len(value) + 4 for name, value in headers.items())
    return len(record.payload) + text + _HEADER_FRAME


class NatsMessage(Message):
    """`reply` is where an ack is sent, empty outside of groups; `seq` is the stream's sequence."""

    __slots__ = ("_raw_headers", "cursor", "payload", "reply", "seq", "subject")

    def __init__(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        *,
        cursor: str,
        seq: int = 0,
        reply: str = "",
    ) -> None:
        self.subject = subject
        self.payload = payload
        self.cursor = cursor
        self.seq = seq
        self.reply = reply
        self._raw_headers = headers or {}

    @property
    def position(self) -> Position:
        return position_of(self.subject, self._raw_headers.get(MESSAGE_ID, ""))

    @property
    def headers(self) -> Mapping[str, str]:
        return {k: v for k, v in self._raw_headers.items() if not k.startswith("Nats-")}


def sequence_cursor(epoch: int, seq: int) -> str:
    return f"{epoch}@{seq}"


def position_cursor(epoch: int, position: Position) -> str:
    """For a live record, whose stream sequence the subscriber is not told."""
    return f"{epoch}@p{position.epoch}.{position.seq}.{position.sub}"


def parse_cursor(subject: str, cursor: str, epoch: int) -> int | Position:
    """What a cursor of this log says.

    Raises:
        PositionLost: it is malformed, or belongs to another incarnation of the log.
    """
    made, _, place = cursor.partition("@")
    if made == str(epoch):
        if place.isdecimal():
            return int(place)
        parts = place.removeprefix("p").split(".")
        if place.startswith("p") and len(parts) == 3 and all(part.isdecimal() for part in parts):
            return Position(*map(int, parts))
    raise PositionLost(subject, cursor, None)


def sequence_of_reply(reply: str) -> int:
    """The stream sequence inside an ack subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with
    domain and account hash after `ACK`.
    """
    tokens = reply.split(".")
    return int(tokens[5] if len(tokens) == 9 else tokens[7])
