"""How records look on JetStream: message ids, cursors, delivered messages. Pure.

The `Nats-Msg-Id` header is `venue:channel:product:epoch:seq[:sub]` (`invalid:0:seq` for parked
input). It makes the server drop what it already has, and it is where a stored record's position is
read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from services.common.errors import InvalidSubject, PositionLost
from services.common.stream.nats.wire import header_of, headers_of
from services.common.stream.records import Message, Position, number_in
from services.common.subjects import INVALID_LOG, INVALID_SUBJECT, key_of

_BEHIND_VERSION = len("NATS/1.0")
# Of a record that is none of ours.
NO_POSITION = Position(0, 0)
# Three numbers of 20 digits and what is between them.
_LONGEST_POSITION = 62
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@lru_cache(maxsize=65_536)
def _id_prefix(subject: str) -> str:
    return f"{INVALID_LOG}:" if subject == INVALID_SUBJECT else f"{key_of(subject)}:"


def message_id(subject: str, position: Position) -> str:
    epoch, seq, sub = position
    if sub:
        return f"{_id_prefix(subject)}{epoch}:{seq}:{sub}"
    return f"{_id_prefix(subject)}{epoch}:{seq}"


def position_of(subject: str, identity: str) -> Position:
    """The position inside a message id. A record without a readable one counts as the oldest.

    So does one on a subject that is none of ours, which whoever may publish here can bring about.
    """
    try:
        prefix = _id_prefix(subject)
    except InvalidSubject:
        return NO_POSITION
    if identity.startswith(prefix) and len(identity) - len(prefix) <= _LONGEST_POSITION:
        parts = identity[len(prefix) :].split(":")
        if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
            return Position(*map(int, parts))
    return NO_POSITION


class NatsMessage(Message):
    """A stored record.

    `reply` is where an ack is sent, empty outside of groups; `seq` is the stream's sequence, 0 for
    a live one, whose subscriber is not told, and for one of a group, where `reply` tells it; `join`
    counts the member's joins until it was given out. What is not asked for is not computed.
    """

    __slots__ = (
        "_epoch",
        "_header_block",
        "_position",
        "join",
        "payload",
        "reply",
        "seq",
        "subject",
    )

    def __init__(
        self,
        subject: str,
        payload: bytes,
        header_block: bytes,
        epoch: int,
        seq: int = 0,
        reply: str = "",
        join: int = 0,
    ) -> None:
        self.subject = subject
        self.payload = payload
        self.seq = seq
        self.reply = reply
        self.join = join
        self._epoch = epoch
        self._header_block = header_block
        self._position: Position | None = None

    @property
    def cursor(self) -> str:  # type: ignore[override]  # read only here, and rarely read
        if self.seq:
            return sequence_cursor(self._epoch, self.seq)
        if self.reply:
            return sequence_cursor(self._epoch, sequence_of_reply(self.reply))
        return position_cursor(self._epoch, self.position)

    @property
    def position(self) -> Position:
        position = self._position
        if position is None:
            identity = header_of(self._header_block, b"Nats-Msg-Id:") or ""
            position = self._position = position_of(self.subject, identity)
        return position

    def is_at(self, epoch: int, seq: int, sub: int) -> bool:
        last = f":{sub}\r\n" if sub else "\r\n"
        line = f"\r\nNats-Msg-Id: {_id_prefix(self.subject)}{epoch}:{seq}{last}"
        if self._header_block.startswith(line.encode(), _BEHIND_VERSION):
            return True
        # It stands behind other headers, or is written in another way.
        return self.position == (epoch, seq, sub)

    @property
    def headers(self) -> Mapping[str, str]:
        # Nearly always there are none but the server's, seen without reading them: besides these
        # a block has its version and an empty line.
        block = self._header_block
        if block.count(b"\r\nNats-") >= block.count(b"\r\n") - 2:
            return _NO_HEADERS
        return {
            name: value for name, value in headers_of(block).items() if not name.startswith("Nats-")
        }


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
        sequence = number_in(place)
        if sequence is not None:
            return sequence
        numbers = [number_in(part) for part in place.removeprefix("p").split(".")]
        match numbers:
            case [int(seen_epoch), int(seq), int(sub)] if place.startswith("p"):
                return Position(seen_epoch, seq, sub)
    raise PositionLost(subject, cursor, None)


def sequence_of_reply(reply: str) -> int:
    """The stream sequence inside an ack subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with
    domain and account hash after `ACK`.
    """
    tokens = reply.split(".")
    return int(tokens[5] if len(tokens) == 9 else tokens[7])
