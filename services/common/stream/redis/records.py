"""How records look on Redis Streams: keys, entries, cursors, and which may be read now. Pure.

One stream a subject and epoch; an entry's id is `<seq>-<sub>`, so that the server itself refuses
what it has and what comes out of order. An entry's fields: `p` payload, `h` headers as JSON where
there are any. Beside the streams, a log has

- a registry stream that announces (subject, epoch) when a key is first written;
- an epoch key, set once to the server's time (B9);
- a hash of the newest trimmed id of each stream (B5);
- for each group a hash of the id up to which it has acked each stream, `<log epoch>:<id>` by
  `<subject>@<epoch>`: its place outlives what Redis itself keeps of the group;
- for each stream a sorted set of (time, id) marks, by which it is trimmed: its ids are positions,
  not times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from services.common.errors import PositionLost
from services.common.stream.records import MAX_NUMBER, Message, Position, number_in
from services.common.subjects import redis_key, redis_registry_key

ZERO = (0, 0)
_LARGEST_SUB = 2**64 - 1
_ID_DIGITS = 20


class Names:
    """Keys of one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def stream(self, source: Source) -> str:
        return redis_key(self.prefix, *source)

    def marks(self, source: Source) -> str:
        return f"{self.stream(source)}:times"

    def registry(self, log: str) -> str:
        return redis_registry_key(self.prefix, log)

    def epoch(self, log: str) -> str:
        return f"{self.prefix}:epoch:{log}"

    def places(self, log: str, group: str) -> str:
        return f"{self.prefix}:places:{log}:{group}"

    def trimmed(self, log: str) -> str:
        return f"{self.prefix}:trimmed:{log}"


class Source(NamedTuple):
    """One Redis stream: a subject's records of one epoch."""

    subject: str
    epoch: int


def announced(fields: Mapping[bytes, bytes]) -> Source | None:
    """What an entry of the registry announces; None where somebody else wrote something else."""
    epoch = fields.get(b"e", b"")
    try:
        source = Source(fields[b"s"].decode(), int(epoch))
    except (LookupError, ValueError):
        return None
    return source if 0 <= source.epoch <= MAX_NUMBER else None


def entry_id(position: Position) -> str:
    return f"{position.seq}-{position.sub}"


def parse_id(text: bytes | str) -> tuple[int, int]:
    seq, _, sub = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(seq), int(sub)


def trimmed_id(text: bytes | None) -> tuple[int, int]:
    """A stream's newest trimmed id; `ZERO` where nothing was, or somebody else wrote something."""
    seq, _, sub = (text or b"").partition(b"-")
    if seq.isdigit() and sub.isdigit() and len(seq) <= _ID_DIGITS and len(sub) <= _ID_DIGITS:
        return int(seq), int(sub)
    return ZERO


def behind(place: tuple[int, int]) -> str:
    """Where a range of ids begins that holds all that follow `place`."""
    return f"({place[0]}-{place[1]}" if place != ZERO else "-"


def id_before(identity: bytes | str) -> str:
    """The id directly before this one."""
    seq, sub = parse_id(identity)
    return f"{seq}-{sub - 1}" if sub else f"{seq - 1}-{_LARGEST_SUB}"


def cursor_at(log_epoch: int, epoch: int, place: tuple[int, int]) -> str:
    return f"{log_epoch}@{epoch}.{place[0]}-{place[1]}"


def parse_cursor(subject: str, cursor: str, log_epoch: int) -> Position:
    """What a cursor of this log says.

    Raises:
        PositionLost: it is malformed, or belongs to another incarnation of the log.
    """
    made, _, place = cursor.partition("@")
    epoch, _, rest = place.partition(".")
    seq, _, sub = rest.partition("-")
    match number_in(epoch), number_in(seq), number_in(sub):
        case int(of_epoch), int(of_seq), int(of_sub) if made == str(log_epoch):
            position = Position(of_epoch, of_seq, of_sub)
            if max(position) <= _LARGEST_SUB:
                return position
    raise PositionLost(subject, cursor, None)


class RedisMessage(Message):
    """A stored record. What is not asked for is not computed."""

    __slots__ = ("_fields", "_log_epoch", "identity", "payload", "source", "subject")

    def __init__(
        self, source: Source, identity: bytes, fields: Mapping[bytes, bytes], log_epoch: int
    ) -> None:
        self.subject = source.subject
        self.source = source
        self.identity = identity
        # Others' entries may have any fields.
        self.payload = fields.get(b"p", b"")
        self._fields = fields
        self._log_epoch = log_epoch

    @property
    def cursor(self) -> str:  # type: ignore[override]  # read only here, and rarely read
        return f"{self._log_epoch}@{self.source.epoch}.{self.identity.decode()}"

    def is_of(self, log_epoch: int) -> bool:
        """Whether it belongs to this incarnation of the log."""
        return self._log_epoch == log_epoch

    @property
    def position(self) -> Position:
        return Position(self.source.epoch, *parse_id(self.identity))

    def is_at(self, epoch: int, seq: int, sub: int) -> bool:
        return self.source.epoch == epoch and self.identity == b"%d-%d" % (seq, sub)

    @property
    def headers(self) -> Mapping[str, str]:
        text = self._fields.get(b"h")
        return {} if text is None else _read_headers(text)


def _read_headers(text: bytes) -> Mapping[str, str]:
    """Those of a record; none where somebody else wrote something else."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(held, dict):
        return {}
    return {name: value for name, value in held.items() if isinstance(value, str)}


class Sources:
    def __init__(self) -> None:
        self._epochs: dict[str, list[int]] = {}
        self._drained: set[Source] = set()
        self._left_out: set[Source] = set()

    def add(self, source: Source) -> bool:
        """False when it was known."""
        epochs = self._epochs.setdefault(source.subject, [])
        if source.epoch in epochs:
            return False
        epochs.append(source.epoch)
        epochs.sort()
        return True

    def readable_ones(self) -> list[Source]:
        """All but those that are left out."""
        known = (Source(subject, n) for subject, held in self._epochs.items() for n in held)
        return [source for source in known if source not in self._left_out]

    def left_out(self) -> list[Source]:
        return sorted(self._left_out)

    def leave_out(self, source: Source) -> None:
        """It cannot be read."""
        self._left_out.add(source)

    def take_back(self, source: Source) -> None:
        """It can be read (again)."""
        self._left_out.discard(source)

    def readable(self) -> tuple[list[Source], bool]:
        """The streams to read, and whether newer ones wait behind them (then do not block)."""
        found: list[Source] = []
        behind = False
        for subject, epochs in self._epochs.items():
            for number, epoch in enumerate(epochs):
                source = Source(subject, epoch)
                if source in self._left_out:
                    continue
                found.append(source)
                if source not in self._drained and number + 1 < len(epochs):
                    behind = True
                    break
        return found, behind

    def drained(self, source: Source) -> None:
        """The stream gave all it held."""
        self._drained.add(source)
