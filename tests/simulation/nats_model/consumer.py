"""A durable pull consumer of a stream, which acknowledges each record."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.simulation.nats_model.stream import Refused, Stored, Stream

_DEFAULTS: dict[str, Any] = {
    "deliver_policy": "all",
    "ack_policy": "explicit",
    "ack_wait": 30_000_000_000,
    "max_deliver": -1,
    "replay_policy": "instant",
    "max_waiting": 512,
    "max_ack_pending": 1000,
    "num_replicas": 0,
}


_FIXED = {"deliver_policy": "deliver policy", "opt_start_seq": "start sequence"}


@dataclass(slots=True)
class Pull:
    """A member's request for records, to be sent to `reply`; times in nanoseconds since 1970."""

    reply: str
    batch: int
    max_bytes: int
    expires_ns: int
    heartbeat_ns: int
    heard_ns: int


@dataclass(slots=True)
class _Given:
    """A record that is not acknowledged: when it was given out last, and its first number."""

    at_ns: int
    number: int
    times: int = 1


class Standing(NamedTuple):
    """Where a consumer is."""

    delivered_seq: int
    delivered_number: int
    floor_seq: int
    floor_number: int
    given: dict[int, _Given]


@dataclass(slots=True, frozen=True)
class Delivery:
    """A record on its way to a member; `reply` is where its acknowledgement goes."""

    record: Stored
    reply: str


class Consumer:
    """What a group has had of a stream. `number` counts deliveries, `seq` is the stream's."""

    def __init__(self, stream: Stream, config: dict[str, Any], now_ns: int) -> None:
        self.stream = stream
        self.config = _DEFAULTS | config
        self.created_ns = now_ns
        self.delivered_seq = self.floor_seq = self._first_of(self.config) - 1
        self.delivered_number = self.floor_number = 0
        self._given: dict[int, _Given] = {}
        self._again: deque[int] = deque()

    def _first_of(self, config: dict[str, Any]) -> int:
        stream = self.stream
        first = max(1, stream.first)
        match config["deliver_policy"]:
            case "by_start_sequence":
                return max(first, int(config["opt_start_seq"]))
            case "last":
                return max(first, stream.last)
            case "new":
                return stream.last + 1
        return first

    def change(self, config: dict[str, Any]) -> None:
        """Have another config from now on.

        Raises:
            Refused: that cannot be changed.
        """
        for name, said in _FIXED.items():
            if self.config.get(name) != config.get(name):
                raise Refused(500, 10012, f"{said} can not be updated")
        self.config = config

    @property
    def redelivered(self) -> int:
        """How many of those that are not acknowledged were given out more than once."""
        return sum(given.times > 1 for given in self._given.values())

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def unacked(self) -> int:
        return len(self._given)

    @property
    def pending(self) -> int:
        """How many records of the stream it has not given out yet."""
        return self.stream.count_after(">", self.delivered_seq + 1)

    def next(self, now_ns: int) -> Stored | None:
        """The record that the next delivery has; None while there is none, or no room for one."""
        while self._again:
            record = self.stream.records.get(self._again[0])
            if record is not None and self._again[0] in self._given:
                return record
            self._forget(self._again.popleft())
        if len(self._given) >= self.config["max_ack_pending"]:
            return None
        self.stream.expire(now_ns)
        return next(self.stream.after(">", self.delivered_seq + 1), None)

    def give(self, record: Stored, now_ns: int) -> Delivery:
        """Give out what `next` said."""
        self.delivered_number += 1
        if self._again and self._again[0] == record.seq:
            self._again.popleft()
            given = self._given[record.seq]
            given.at_ns = now_ns
            given.times += 1
        else:
            given = self._given[record.seq] = _Given(now_ns, self.delivered_number)
            self.delivered_seq = record.seq
        return Delivery(record, self._reply(record, given.times, self.delivered_number))

    def size_of(self, record: Stored) -> int:
        """What the next delivery counts for, with where its acknowledgement goes, in bytes."""
        given = self._given.get(record.seq)
        reply = self._reply(record, given.times + 1 if given else 1, self.delivered_number + 1)
        return len(record.subject) + len(reply) + len(record.headers) + len(record.payload)

    def _reply(self, record: Stored, times: int, number: int) -> str:
        return (
            f"$JS.ACK.{self.stream.config['name']}.{self.name}.{times}.{record.seq}."
            f"{number}.{record.time_ns}.{self.pending}"
        )

    def answered(self, seq: int, said: bytes, now_ns: int) -> None:
        """What a member says of a record that it was given; what is not known changes nothing."""
        given = self._given.get(seq)
        if said.startswith(b"-NAK"):
            if given is not None and seq not in self._again:
                self._again.append(seq)
        elif said.startswith(b"+WPI"):
            if given is not None:
                given.at_ns = now_ns
        else:
            self._forget(seq)

    def _forget(self, seq: int) -> None:
        if self._given.pop(seq, None) is None:
            return
        if self._given:
            first = min(self._given)
            self.floor_seq = max(self.floor_seq, first - 1)
            self.floor_number = max(self.floor_number, self._given[first].number - 1)
        else:
            self.floor_seq, self.floor_number = self.delivered_seq, self.delivered_number

    def purged(self) -> None:
        """Records of the stream were purged."""
        first = self.stream.first
        self.delivered_seq = max(self.delivered_seq, first - 1)
        if self.floor_seq < first:
            self.floor_seq = first - 1
            for seq in [seq for seq in self._given if seq not in self.stream.records]:
                self.floor_number = max(self.floor_number, self._given.pop(seq).number)
        if not self._given:
            self.floor_seq, self.floor_number = self.delivered_seq, self.delivered_number

    def keep_to_stream(self) -> None:
        """The stream may have lost its end."""
        last = self.stream.last
        for seq in [seq for seq in self._given if seq > last]:
            del self._given[seq]
        self.delivered_seq = min(self.delivered_seq, last)
        self.floor_seq = min(self.floor_seq, last)

    def standing(self) -> Standing:
        """What the other replicas of it are told."""
        given = {seq: _Given(one.at_ns, one.number, one.times) for seq, one in self._given.items()}
        return Standing(
            self.delivered_seq, self.delivered_number, self.floor_seq, self.floor_number, given
        )

    def moved(self, stream: Stream, standing: Standing) -> Consumer:
        """The same as another server has it, which was told that it stands there."""
        other = Consumer(stream, self.config, self.created_ns)
        other.delivered_seq, other.delivered_number = standing[:2]
        other.floor_seq, other.floor_number = standing[2:4]
        other._given = dict(standing.given)
        return other

    def overdue(self, now_ns: int) -> bool:
        """Have what was not acknowledged in time given out again; whether there is any."""
        wait = self.config["ack_wait"]
        for seq, given in self._given.items():
            if now_ns - given.at_ns >= wait and seq not in self._again:
                self._again.append(seq)
        return bool(self._again)

    def due_ns(self) -> int | None:
        """When the next record is overdue; None while none is given out."""
        waiting = [given.at_ns for seq, given in self._given.items() if seq not in self._again]
        return min(waiting) + int(self.config["ack_wait"]) if waiting else None

    def reset(self) -> int:
        """Begin again behind what is acknowledged; where that is."""
        self._given.clear()
        self._again.clear()
        self.delivered_seq = self.floor_seq
        self.delivered_number = self.floor_number = 0
        return self.floor_seq + 1
