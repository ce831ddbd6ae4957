"""JetStream's streams as logs: their settings, their state, and reading them by direct get."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.connection import Answer, ApiError, Connection
from services.common.stream.nats.records import NO_POSITION, NatsMessage
from services.common.stream.nats.wire import description_of, header_of, status_of
from services.common.stream.records import Held, LogSpec, Position
from services.common.subjects import jetstream_name, log_subjects
from services.common.times import micros

log = structlog.get_logger(__name__)

NANOSECONDS = 1_000_000_000
STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058
_NO_MESSAGE = 10037
# The server (or no set of servers) has this much room to set aside for the stream.
_NO_ROOM = (10047, 10005)
_PAGE_BYTES = 16 * 1024 * 1024
_PAGE_TIMEOUT_S = 15.0


class LogState:
    """What STREAM.INFO says of a log, and reading it by direct get.

    Reading raises BrokerUnavailable when the server does not answer.
    """

    def __init__(self, connection: Connection, log: str, stream: str, info: dict[str, Any]) -> None:
        state = info["state"]
        self.replicated = int(info["config"]["num_replicas"]) > 1
        self.batches = bool(info["config"].get("allow_atomic"))  # it takes atomic batches
        self.epoch = _microseconds(str(info["created"]))  # when it was made
        # Sequences; an empty stream's `first` is `last` + 1.
        self.last = int(state["last_seq"])
        self.first = int(state["first_seq"]) if state["messages"] else self.last + 1
        self._connection = connection
        self._log = log
        self._stream = stream
        self._info = info

    @property
    def held(self) -> Held:
        """How much it keeps."""
        state = self._info["state"]
        # Ages by the server's clock, which gave the records their times; "ts" is its own (2.10).
        oldest = _microseconds(state["first_ts"]) if state["messages"] else 0
        now = _microseconds(self._info["ts"]) if "ts" in self._info else 0
        age_s = max(0, now - oldest) / 1e6 if oldest else 0.0
        max_bytes = int(self._info["config"].get("max_bytes", -1))
        return Held(int(state["bytes"]), max(0, max_bytes), age_s)

    async def subjects(self) -> list[str]:
        """Those that hold records, sorted."""
        found: list[str] = []
        while True:
            info = await self._connection.api(
                f"STREAM.INFO.{self._stream}", {"subjects_filter": ">", "offset": len(found)}
            )
            with self._connection.reading():
                page = info["state"].get("subjects") or {}
                found.extend(page)
                if not page or len(found) >= int(info.get("total", 0)):
                    return sorted(set(found))

    async def page(self, subject: str, after: int, limit: int) -> tuple[list[NatsMessage], int]:
        """Up to `limit` records behind sequence `after`, and how many more there are."""
        found: list[NatsMessage] = []
        pending = 0
        refused = ""

        def take(answer: Answer) -> bool:
            nonlocal pending, refused
            headers = answer.headers
            left = header_of(headers, b"Nats-Num-Pending:")
            pending = int(left or 0)
            message = _stored(answer, self.epoch)
            if message is None:
                # 204 ends a batch, 404 says that there is nothing.
                refused = "" if status_of(headers) in ("204", "404") else _problem(headers)
                return True
            found.append(message)
            # Servers before 2.11 answer one record and know no batches.
            return left is None

        await self._connection.collect(
            f"$JS.API.DIRECT.GET.{self._stream}",
            {"seq": after + 1, "next_by_subj": subject, "batch": limit, "max_bytes": _PAGE_BYTES},
            take,
            _PAGE_TIMEOUT_S,
        )
        if refused:
            raise BrokerUnavailable(self._connection.target, f"read of {subject}: {refused}")
        if len(found) == 1 and limit > 1 and pending == 0:
            more = await self.next(subject, found[0].seq + 1)
            pending = 0 if more is None else 1
        elif pending == 0 and self.replicated:
            # The replica that answered may lag behind; its leader knows what there is.
            more = await self.next(subject, (found[-1].seq if found else after) + 1)
            if more is not None and len(found) < limit:
                found.append(more)
                more = await self.next(subject, more.seq + 1)
            pending = 0 if more is None else 1
        return found, pending

    async def next(self, subject: str, seq: int) -> NatsMessage | None:
        """The first record of a subject at or behind a stream sequence."""
        return await self._one({"seq": max(1, seq), "next_by_subj": subject})

    async def last_of(self, subject: str) -> NatsMessage | None:
        """The newest record of a subject, but for what others put there (it has no position).

        Otherwise one message of somebody else's would hide where the subject ends, and whoever
        writes to it would begin before that.
        """
        found = await self._one({"last_by_subj": subject})
        while found is not None and found.position == NO_POSITION:
            found = await self._before(subject, found.seq)
        return found

    async def newest(self) -> NatsMessage | None:
        """The newest record of all."""
        return await self._one({"last_by_subj": log_subjects(self._log)})

    async def first_above(
        self, subject: str, position: Position, newest: NatsMessage
    ) -> NatsMessage:
        """The first retained record of a subject above `position`, which `newest` is too.

        Each step asks for the subject's first record behind the middle of what is left, so a
        million records of a log take 20 round trips.
        """
        best = newest
        low, high = self.first, newest.seq - 1
        while low <= high:
            middle = (low + high) // 2
            found = await self.next(subject, middle)
            if found is None or found.seq >= best.seq:
                high = middle - 1
            elif found.position > position:
                best = found
                high = middle - 1
            else:
                low = found.seq + 1
        return best

    async def _before(self, subject: str, seq: int) -> NatsMessage | None:
        """The record of a subject directly before a stream sequence; by bisection."""
        found: NatsMessage | None = None
        low, high = 1, seq - 1
        while low <= high:
            middle = (low + high) // 2
            at = await self.next(subject, middle)
            if at is None or at.seq >= seq:
                high = middle - 1
            else:
                found = at
                low = at.seq + 1
        return found

    async def _one(self, body: dict[str, object]) -> NatsMessage | None:
        connection = self._connection
        if self.replicated:
            # Any replica answers a direct get, also one that lags behind; so the leader is asked.
            found = await stored_record(connection, self._stream, body)
            with connection.reading():
                if found is None:
                    return None
                headers = b64decode(found.get("hdrs", ""))
                payload = b64decode(found.get("data", ""))
                return NatsMessage(
                    found["subject"], payload, headers, self.epoch, int(found["seq"])
                )
        answer = await connection.request(f"$JS.API.DIRECT.GET.{self._stream}", body)
        with connection.reading():
            message = _stored(answer, self.epoch)
        if message is None and status_of(answer.headers) != "404":
            raise BrokerUnavailable(connection.target, f"direct get: {_problem(answer.headers)}")
        return message


async def stored_record(
    connection: Connection, stream: str, asked: Mapping[str, object]
) -> dict[str, Any] | None:
    """What a stream's leader has of what is asked for, in JetStream's own form.

    Raises:
        BrokerUnavailable: it does not answer; ApiError: also where there is no such stream.
    """
    try:
        answer = await connection.api(f"STREAM.MSG.GET.{stream}", asked)
    except ApiError as error:
        if error.code != _NO_MESSAGE:
            raise
        return None
    with connection.reading():
        return dict(answer["message"])


def _microseconds(text: str) -> int:
    """A time as the server writes it (nanoseconds, UTC) in microseconds since the epoch."""
    time = micros(text)
    if time is None:
        raise ValueError(f"the server tells a time that makes no sense: {text!r}")
    return time


class Streams:
    """The streams of one prefix. `specs` holds what was ensured, by log."""

    def __init__(self, prefix: str, replicas: int) -> None:
        self._prefix = prefix
        self._replicas = replicas
        self.specs: dict[str, LogSpec] = {}

    def name(self, log: str) -> str:
        return jetstream_name(self._prefix, log)

    async def ensure(self, connection: Connection, spec: LogSpec) -> None:
        """Create the stream or bring its settings up to date."""
        self.specs[spec.log] = spec
        name = self.name(spec.log)
        config: dict[str, object] = {
            "name": name,
            "subjects": [log_subjects(spec.log)],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": int(spec.retention_s * NANOSECONDS),
            "duplicate_window": int(min(spec.duplicate_window_s, spec.retention_s) * NANOSECONDS),
            "num_replicas": self._replicas,
            "allow_direct": True,
            # Servers before 2.12 do not know it and ignore it.
            "allow_atomic": self._replicas > 1,
        }
        try:
            await self._apply(connection, name, config | {"max_bytes": spec.max_bytes or -1})
        except ApiError as error:
            if error.code not in _NO_ROOM:
                raise
            # The bound is set aside on the disk. Without it a log is kept by age alone, until the
            # disk is full: better than none.
            log.warning(
                "log_without_bound",
                log=spec.log,
                max_bytes=spec.max_bytes,
                reason=str(error),
                action="lower JS_*_MAX_BYTES, or raise max_file_store or the account's limit",
            )
            await self._apply(connection, name, config)

    async def _apply(self, connection: Connection, name: str, config: dict[str, object]) -> None:
        try:
            await connection.api(f"STREAM.CREATE.{name}", config)
        except ApiError as error:
            if error.code != NAME_IN_USE:
                raise
            info = await connection.api(f"STREAM.INFO.{name}")
            with connection.reading():
                changed = {**info["config"], **config}
            await connection.api(f"STREAM.UPDATE.{name}", changed)

    async def state(self, connection: Connection, log: str) -> LogState:
        """What the log holds; it is made again when the server lost it."""
        name = self.name(log)
        try:
            info = await connection.api(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND or log not in self.specs:
                raise
            await self.ensure(connection, self.specs[log])
            info = await connection.api(f"STREAM.INFO.{name}")
        with connection.reading():
            return LogState(connection, log, name, info)


def _stored(answer: Answer, epoch: int) -> NatsMessage | None:
    """The record an answer of direct get holds."""
    headers = answer.headers
    seq = header_of(headers, b"Nats-Sequence:")
    if seq is None:
        return None
    subject = header_of(headers, b"Nats-Subject:") or ""
    return NatsMessage(subject, answer.payload, headers, epoch, int(seq))


def _problem(headers: bytes) -> str:
    return f"{status_of(headers)} {description_of(headers) or 'no answer'}".strip()
