"""A durable pull consumer of a stream, which acknowledges each record."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from tests.simulation.nats_model.stream import Stored, Stream


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


@dataclass(slots=True, frozen=True)
class Delivery:
    """A record on its way to a member; `reply` is where its acknowledgement goes."""

    record: Stored
    reply: str


class Consumer:
    """What a group has had of a stream. `number` counts deliveries, `seq` is the stream's."""

    def __init__(self, stream: Stream, config: dict[str, Any], now_ns: int) -> None:
        self.stream = stream
        self.config = config
        self.created_ns = now_ns
        start = 1
        if config.get("deliver_policy") == "by_start_sequence":
            start = int(config["opt_start_seq"])
        self.delivered_seq = self.floor_seq = start - 1 if start > 1 else 0
        self.delivered_number = self.floor_number = 0
        self._given: dict[int, _Given] = {}
        self._again: deque[int] = deque()

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def unacked(self) -> int:
        return len(self._given)

    @property
    def pending(self) -> int:
        """How many records of the stream it has not given out yet."""
        return sum(1 for _ in self.stream.after(">", self.delivered_seq + 1))

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
        reply = (
            f"$JS.ACK.{self.stream.config['name']}.{self.name}.{given.times}.{record.seq}."
            f"{self.delivered_number}.{record.time_ns}.{self.pending}"
        )
        return Delivery(record, reply)

    def ack(self, seq: int) -> None:
        """A member is done with a record; what is not known changes nothing."""
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
        self.delivered_seq, self.delivered_number = self.floor_seq, self.floor_number
        return self.floor_seq + 1
