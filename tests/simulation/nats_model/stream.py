"""A JetStream stream: records in the order of their sequence, their bounds, and who wrote twice.

The source of each rule is nats-server 2.15 as it answers (`test_nats_differential.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.nats_model.subjects import matches
from tests.simulation.nats_model.wire import header_of

# What the file store adds to a message, and what it adds for one with headers, in bytes.
_STORED = 30
_STORED_HEADERS = 4
_LARGEST_BATCH = 1000
_DEFAULTS: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120_000_000_000,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}
# What is told only where it is so.
_SAID_IF_SO = ("allow_atomic",)
# Where 0 means without a bound.
_BOUNDS = ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size")


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """A config with what it does not say."""
    known = {name: value for name, value in config.items() if value or name not in _SAID_IF_SO}
    return _DEFAULTS | known | {name: config.get(name) or -1 for name in _BOUNDS}


class Refused(Exception):
    """JetStream's answer that something is not done: `err_code` says why, `code` what kind."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(description)


@dataclass(slots=True, frozen=True)
class Stored:
    """A record; `headers` is its whole block, empty without any, and `time_ns` when it came."""

    seq: int
    subject: str
    headers: bytes
    payload: bytes
    time_ns: int

    @property
    def size(self) -> int:
        added = _STORED + (_STORED_HEADERS if self.headers else 0)
        return added + len(self.subject) + len(self.headers) + len(self.payload)


@dataclass(slots=True, frozen=True)
class Accepted:
    """What was stored; `duplicate` where it was there already."""

    seq: int
    duplicate: bool = False
    batch: str = ""
    count: int = 0


@dataclass(slots=True)
class _Batch:
    messages: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    broken: bool = False


class Stream:
    """One stream as one server has it; the caller tells the time, in nanoseconds since 1970."""

    def __init__(self, config: dict[str, Any], now_ns: int) -> None:
        self.config = _whole(config)
        self.created_ns = now_ns
        self.first = 0
        self.last = 0
        self.last_ns = 0
        # Where an end began that was lost, for whoever follows the stream; 0 once that was seen.
        self.lost_from = 0
        # Of the newest record, also when that is gone.
        self.last_id = ""
        self.bytes = 0
        self.records: dict[int, Stored] = {}
        self.by_subject: dict[str, list[int]] = {}
        self._ids: dict[str, tuple[int, int]] = {}
        self._batches: dict[str, _Batch] = {}

    def change(self, config: dict[str, Any]) -> None:
        """Have another config from now on.

        Raises:
            Refused: that cannot be changed.
        """
        changed = _whole(config)
        if changed["storage"] != self.config["storage"]:
            said = "stream configuration update can not change storage type"
            raise Refused(500, 10052, said)
        self.config = changed
        for subject in list(self.by_subject):
            self._keep_to_bounds(subject)

    def takes(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.config["subjects"])

    # -- writing

    def publish(self, subject: str, headers: bytes, payload: bytes, now_ns: int) -> Accepted | None:
        """Store a message; None for one of a batch that is not committed yet.

        Raises:
            Refused: it is not stored.
        """
        self.expire(now_ns)
        if 0 <= self.config["max_msg_size"] < len(headers) + len(payload):
            raise Refused(400, 10054, "message size exceeds maximum allowed")
        batch = header_of(headers, "Nats-Batch-Id")
        if batch is not None:
            return self._publish_in_batch(batch, subject, headers, payload, now_ns)
        identity = header_of(headers, "Nats-Msg-Id")
        if identity is not None and (known := self._known(identity, now_ns)) is not None:
            return Accepted(known, duplicate=True)
        self._check_expected(headers)
        self._check_room([(subject, headers, payload)])
        return Accepted(self._store(subject, headers, payload, now_ns))

    def _publish_in_batch(
        self, batch: str, subject: str, headers: bytes, payload: bytes, now_ns: int
    ) -> Accepted | None:
        if not self.config.get("allow_atomic"):
            raise Refused(400, 10174, "atomic publish is disabled")
        number = int(header_of(headers, "Nats-Batch-Sequence") or 0)
        held = self._batches.setdefault(batch, _Batch())
        if number != len(held.messages) + 1 or number > _LARGEST_BATCH:
            held.broken = True
        else:
            held.messages.append((subject, headers, payload))
        if header_of(headers, "Nats-Batch-Commit") is None:
            return None
        del self._batches[batch]
        if held.broken:
            raise Refused(400, 10176, "atomic publish batch is incomplete")
        ids: set[str] = set()
        for place, (_subject, block, _body) in enumerate(held.messages):
            if header_of(block, unknown := "Nats-Expected-Last-Msg-Id") is not None:
                raise Refused(400, 10177, f"atomic publish unsupported header used: {unknown}")
            identity = header_of(block, "Nats-Msg-Id")
            if identity is None:
                pass
            elif identity in ids or self._known(identity, now_ns) is not None:
                raise Refused(400, 10201, "atomic publish batch contains duplicate message id")
            else:
                ids.add(identity)
            self._check_room(held.messages[: place + 1])
        for one in held.messages:
            self._store(*one, now_ns)
        return Accepted(self.last, batch=batch, count=len(held.messages))

    def _known(self, identity: str, now_ns: int) -> int | None:
        found = self._ids.get(identity)
        if found is None or now_ns - found[1] >= self.config["duplicate_window"]:
            return None
        return found[0]

    def _check_expected(self, headers: bytes) -> None:
        expected = header_of(headers, "Nats-Expected-Last-Msg-Id")
        if expected is not None and self.last_id != expected:
            raise Refused(400, 10070, f"wrong last msg ID: {self.last_id}")

    def _check_room(self, messages: Sequence[tuple[str, bytes, bytes]]) -> None:
        config = self.config
        if config["discard"] == "new":
            if 0 <= config["max_msgs"] < len(self.records) + len(messages):
                raise Refused(503, 10077, "maximum messages exceeded")
            size = sum(Stored(0, *message, 0).size for message in messages)
            if 0 <= config["max_bytes"] < self.bytes + size:
                raise Refused(503, 10077, "maximum bytes exceeded")

    def _store(self, subject: str, headers: bytes, payload: bytes, now_ns: int) -> int:
        self.last += 1
        self.last_ns = now_ns
        record = Stored(self.last, subject, headers, payload, now_ns)
        if not self.records:
            self.first = self.last
        self.records[self.last] = record
        self.by_subject.setdefault(subject, []).append(self.last)
        self.bytes += record.size
        identity = header_of(headers, "Nats-Msg-Id")
        self.last_id = identity or ""
        if identity is not None:
            self._ids[identity] = (self.last, now_ns)
        self._keep_to_bounds(subject)
        return self.last

    def _keep_to_bounds(self, subject: str) -> None:
        config = self.config
        of_subject = self.by_subject[subject]
        while 0 < config["max_msgs_per_subject"] < len(of_subject):
            self.remove(of_subject[0])
        while 0 <= config["max_msgs"] < len(self.records):
            self.remove(self.first)
        while 0 <= config["max_bytes"] < self.bytes:
            self.remove(self.first)

    # -- leaving

    def expire(self, now_ns: int) -> None:
        """Let go of what is older than the stream keeps."""
        max_age = self.config["max_age"]
        while max_age and self.records and now_ns - self.records[self.first].time_ns > max_age:
            self.remove(self.first)

    def remove(self, seq: int) -> None:
        """Let go of one record."""
        record = self.records.pop(seq)
        self.bytes -= record.size
        of_subject = self.by_subject[record.subject]
        of_subject.remove(seq)
        if not of_subject:
            del self.by_subject[record.subject]
        self.first = next(iter(self.records), self.last + 1)

    def purge(self, before: int = 0, pattern: str = "", keep: int = 0) -> int:
        """Let go of what matches; how many that were.

        `before`: only what lies before that sequence. `keep`: all but so many of the newest.
        """
        pattern = "" if pattern == ">" else pattern
        held = list(self.after(pattern or ">", 0))
        gone = [one.seq for one in held if not before or one.seq < before]
        if keep:
            gone = gone[: max(0, len(gone) - keep)]
        for seq in gone:
            self.remove(seq)
        if not pattern and not keep and before != 1:
            self.last = max(self.last, before - 1)
            self.first = next(iter(self.records), self.last + 1)
        return len(gone)

    def lose_from(self, seq: int) -> None:
        """Forget what was stored from there on, as a disk does that was not synced."""
        for gone in [held for held in self.records if held >= seq]:
            identity = header_of(self.records[gone].headers, "Nats-Msg-Id")
            self._ids.pop(identity or "", None)
            self.remove(gone)
        self.last = min(self.last, max(0, seq - 1))
        self.lost_from = min(seq, self.lost_from or seq)
        newest = self.records.get(self.last)
        self.last_id = (header_of(newest.headers, "Nats-Msg-Id") or "") if newest else ""
        self._batches.clear()

    # -- reading

    def find(self, asked: dict[str, Any]) -> Stored | None:
        """The record that a get asks for: a sequence, the last of a subject, or the next of one."""
        if (last_of := asked.get("last_by_subj")) is not None:
            newest = [
                held[-1] for subject, held in self.by_subject.items() if matches(last_of, subject)
            ]
            return self.records[max(newest)] if newest else None
        if "next_by_subj" in asked:
            return next(self.after(asked["next_by_subj"], int(asked.get("seq", 1))), None)
        return self.records.get(int(asked.get("seq", 0)))

    def after(self, pattern: str, seq: int) -> Iterator[Stored]:
        """The records of the subjects that match, from a sequence on."""
        if (own := self.by_subject.get(pattern)) is not None:
            for number in own[bisect_left(own, seq) :]:
                yield self.records[number]
            return
        for number in range(max(seq, self.first), self.last + 1):
            record = self.records.get(number)
            if record is not None and matches(pattern, record.subject):
                yield record

    def count_after(self, pattern: str, seq: int) -> int:
        """How many records of the subjects that match lie from a sequence on."""
        return sum(
            len(held) - bisect_left(held, seq)
            for subject, held in self.by_subject.items()
            if matches(pattern, subject)
        )
