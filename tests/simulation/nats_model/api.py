"""JetStream's API, in JSON both ways (docs.nats.io, "JetStream wire API Reference")."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from tests.simulation.nats_model.consumer import Consumer
from tests.simulation.nats_model.stream import Refused, Stored, Stream
from tests.simulation.nats_model.subjects import matches
from tests.simulation.nats_model.wire import status, timestamp, with_headers

_SUBJECTS_AT_ONCE = 100_000
_NO_PAGES = {"total": 0, "offset": 0, "limit": 0}


# What a server says whose disk is full: of a record, and of a bound that it cannot set aside.
NO_ROOM = Refused(503, 10023, "insufficient resources")
NO_SPACE = Refused(500, 10047, "insufficient storage resources available")


UNAVAILABLE = Refused(503, 10008, "JetStream system temporarily unavailable")


def _stream_not_found() -> Refused:
    return Refused(404, 10059, "stream not found")


class JetStream:
    """The streams and consumers of one account, which outlive the server that has them."""

    def __init__(self, server_name: str) -> None:
        self.server_name = server_name
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        # Called with a consumer that is no more, and with one that may give out again.
        self.on_gone: Callable[[Consumer], None] = lambda _: None
        self.on_ready: Callable[[Consumer], None] = lambda _: None

    def stream_for(self, subject: str) -> Stream | None:
        """The stream that stores what is published there."""
        return next((one for one in self.streams.values() if one.takes(subject)), None)

    def stream(self, name: str) -> Stream:
        """The stream of that name.

        Raises:
            Refused: there is none.
        """
        if (found := self.streams.get(name)) is None:
            raise _stream_not_found()
        return found

    def answer(self, verb: str, payload: bytes, now_ns: int) -> bytes | None:
        """What `$JS.API.<verb>` is answered; None where nobody listens, empty for no answer."""
        tokens = verb.split(".")
        handler = _HANDLERS.get(tuple(tokens[:2])) or _HANDLERS.get(tuple(tokens[:3]))
        if verb == "INFO":
            handler = JetStream._account
        if handler is None:
            return None
        body = json.loads(payload) if payload else {}
        names = tokens[3:] if tokens[:2] == ["STREAM", "MSG"] else tokens[2:]
        if handler is JetStream._reset and tuple(names) not in self.consumers:
            return b""
        try:
            told = handler(self, names, body, now_ns)
        except Refused as refused:
            told = {"error": error_of(refused)}
            if handler is JetStream._info:
                told |= _NO_PAGES
        return _typed(verb, told)

    def refusal(self, verb: str, refused: Refused) -> bytes:
        """An answer that something is not done."""
        return _typed(verb, {"error": error_of(refused)})

    def _account(self, _names: list[str], _body: dict[str, Any], _now_ns: int) -> dict[str, Any]:
        limits = dict.fromkeys(("max_memory", "max_storage", "max_streams", "max_consumers"), -1)
        return {
            "memory": 0,
            "storage": sum(stream.bytes for stream in self.streams.values()),
            "reserved_memory": 0,
            "reserved_storage": 0,
            "streams": len(self.streams),
            "consumers": len(self.consumers),
            "limits": limits,
        }

    # -- streams

    def _create(self, names: list[str], body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        made = Stream(body, now_ns)
        there = self.streams.setdefault(names[0], made)
        if there.config != made.config:
            said = "stream name already in use with a different configuration"
            raise Refused(400, 10058, said)
        return self._described(there, now_ns) | {"did_create": True}

    def _update(self, names: list[str], body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        stream = self.stream(names[0])
        stream.change(body)
        return self._described(stream, now_ns)

    def _info(self, names: list[str], body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        stream = self.stream(names[0])
        told = self._described(stream, now_ns) | _NO_PAGES
        told["cluster"] = {"leader": self.server_name}
        if (pattern := body.get("subjects_filter")) is not None:
            begin = int(body.get("offset", 0))
            found = sorted(one for one in stream.by_subject if matches(pattern, one))
            page = found[begin : begin + _SUBJECTS_AT_ONCE]
            if page:
                told["state"]["subjects"] = {one: len(stream.by_subject[one]) for one in page}
            if found:
                told |= {"total": len(found), "offset": begin, "limit": _SUBJECTS_AT_ONCE}
        return told

    def _described(self, stream: Stream, now_ns: int) -> dict[str, Any]:
        stream.expire(now_ns)
        oldest = stream.records.get(stream.first)
        state: dict[str, Any] = {
            "messages": len(stream.records),
            "bytes": stream.bytes,
            "first_seq": stream.first,
            "first_ts": timestamp(oldest.time_ns if oldest else 0),
            "last_seq": stream.last,
            "last_ts": timestamp(stream.last_ns),
            "consumer_count": sum(key[0] == stream.config["name"] for key in self.consumers),
        }
        gone = stream.last - stream.first + 1 - len(stream.records)
        if stream.records and gone:
            state["num_deleted"] = gone
        if stream.by_subject:
            state["num_subjects"] = len(stream.by_subject)
        return {
            "config": stream.config,
            "created": timestamp(stream.created_ns),
            "state": state,
            "ts": timestamp(now_ns),
        }

    def _delete(self, names: list[str], _body: dict[str, Any], _now_ns: int) -> dict[str, Any]:
        self.stream(names[0])
        del self.streams[names[0]]
        for key in [key for key in self.consumers if key[0] == names[0]]:
            self.on_gone(self.consumers.pop(key))
        return {"success": True}

    def _purge(self, names: list[str], body: dict[str, Any], _now_ns: int) -> dict[str, Any]:
        purged = self.stream(names[0]).purge(
            int(body.get("seq", 0)), str(body.get("filter", "")), int(body.get("keep", 0))
        )
        for key, consumer in self.consumers.items():
            if key[0] == names[0]:
                consumer.purged()
        return {"success": True, "purged": purged}

    def _get(self, names: list[str], body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        stream = self.stream(names[0])
        if not any(body.values()):
            raise Refused(400, 10003, "bad request")
        stream.expire(now_ns)
        found = stream.find(body)
        if found is None:
            raise Refused(404, 10037, "no message found")
        told = {
            "subject": found.subject,
            "seq": found.seq,
            "time": timestamp(found.time_ns),
        }
        parts = {"hdrs": found.headers, "data": found.payload}
        return {
            "message": told
            | {name: b64encode(part).decode() for name, part in parts.items() if part}
        }

    def answers_directly(self, name: str) -> bool:
        """Whether somebody subscribes to the direct gets of a stream."""
        return name in self.streams and bool(self.streams[name].config["allow_direct"])

    def direct_get(self, name: str, payload: bytes, now_ns: int) -> Iterator[tuple[bytes, bytes]]:
        """The answers to `$JS.API.DIRECT.GET.<stream>`: a header block and a payload each."""
        stream = self.streams[name]
        stream.expire(now_ns)
        asked = json.loads(payload)
        if not any(asked.values()):
            yield status(408, "Empty Request"), b""
        elif "batch" in asked:
            yield from _batch_of(stream, asked)
        elif (found := stream.find(asked)) is None:
            yield status(404, "Message Not Found"), b""
        else:
            yield _described(stream, found), found.payload

    # -- consumers

    def consumer(self, stream: str, name: str) -> Consumer:
        """The consumer of that name.

        Raises:
            Refused: there is none.
        """
        self.stream(stream)
        if (found := self.consumers.get((stream, name))) is None:
            raise Refused(404, 10014, "consumer not found")
        return found

    def _make(self, names: list[str], body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        stream, key = self.stream(names[0]), (names[0], names[1])
        there, action = self.consumers.get(key), body.get("action")
        made = Consumer(stream, body["config"], now_ns)
        if there is None:
            if action == "update":
                raise Refused(400, 10149, "consumer does not exist")
            there = self.consumers[key] = made
        else:
            if action == "create" and there.config != made.config:
                raise Refused(400, 10148, "consumer already exists")
            there.change(made.config)
        return self._told(there, now_ns)

    def _consumer_info(
        self, names: list[str], _body: dict[str, Any], now_ns: int
    ) -> dict[str, Any]:
        return self._told(self.consumer(*names), now_ns)

    def _reset(self, names: list[str], _body: dict[str, Any], now_ns: int) -> dict[str, Any]:
        consumer = self.consumer(*names)
        begin = consumer.reset()
        self.on_ready(consumer)
        return self._told(consumer, now_ns) | {"reset_seq": begin}

    def _forget(self, names: list[str], _body: dict[str, Any], _now_ns: int) -> dict[str, Any]:
        self.consumer(*names)
        self.on_gone(self.consumers.pop((names[0], names[1])))
        return {"success": True}

    @staticmethod
    def _told(consumer: Consumer, now_ns: int) -> dict[str, Any]:
        consumer.stream.expire(now_ns)
        return {
            "stream_name": consumer.stream.config["name"],
            "name": consumer.name,
            "created": timestamp(consumer.created_ns),
            "config": consumer.config,
            "delivered": {
                "consumer_seq": consumer.delivered_number,
                "stream_seq": consumer.delivered_seq,
            },
            "ack_floor": {
                "consumer_seq": consumer.floor_number,
                "stream_seq": consumer.floor_seq,
            },
            "num_ack_pending": consumer.unacked,
            "num_redelivered": consumer.redelivered,
            "num_waiting": 0,
            "num_pending": consumer.pending,
            "ts": timestamp(now_ns),
        }


_HANDLERS: dict[
    tuple[str, ...],
    Callable[[JetStream, list[str], dict[str, Any], int], dict[str, Any]],
] = {
    ("STREAM", "CREATE"): JetStream._create,
    ("STREAM", "UPDATE"): JetStream._update,
    ("STREAM", "INFO"): JetStream._info,
    ("STREAM", "DELETE"): JetStream._delete,
    ("STREAM", "PURGE"): JetStream._purge,
    ("STREAM", "MSG", "GET"): JetStream._get,
    ("CONSUMER", "CREATE"): JetStream._make,
    ("CONSUMER", "INFO"): JetStream._consumer_info,
    ("CONSUMER", "RESET"): JetStream._reset,
    ("CONSUMER", "DELETE"): JetStream._forget,
}


def _typed(verb: str, told: dict[str, Any]) -> bytes:
    words = verb.split(".")
    words = words[:3] if words[1:2] == ["MSG"] or words[1:2] == ["LEADER"] else words[:2]
    kind = "account_info" if verb == "INFO" else "_".join(words).lower()
    return as_json({"type": f"io.nats.jetstream.api.v1.{kind}_response"} | told).encode()


def refusal(stream: str, refused: Refused) -> bytes:
    """What a publisher is told of what is not stored."""
    return as_json({"error": error_of(refused), "stream": stream, "seq": 0}).encode()


def as_json(told: dict[str, Any]) -> str:
    """JSON as the server writes it: some clients look for `"err_code":10201` in it."""
    return json.dumps(told, separators=(",", ":"))


def error_of(refused: Refused) -> dict[str, Any]:
    """A refusal as it stands in an answer."""
    return {
        "code": refused.code,
        "err_code": refused.err_code,
        "description": refused.description,
    }


def _described(stream: Stream, record: Stored, **more: object) -> bytes:
    return with_headers(
        record.headers,
        Nats_Stream=stream.config["name"],
        Nats_Subject=record.subject,
        Nats_Sequence=record.seq,
        Nats_Time_Stamp=timestamp(record.time_ns),
        **more,
    )


def _batch_of(stream: Stream, asked: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    pattern, begin = asked.get("next_by_subj", ">"), int(asked.get("seq", 1))
    room = int(asked.get("max_bytes") or 0)
    left, before, sent = stream.count_after(pattern, begin), 0, 0
    if not left:
        yield status(404, "Message Not Found"), b""
        return
    for record in stream.after(pattern, begin):
        sent += len(record.headers) + len(record.payload)
        left -= 1
        more = {"Nats_Num_Pending": left, "Nats_Last_Sequence": before}
        yield _described(stream, record, **more), record.payload
        before = record.seq
        asked["batch"] -= 1
        if not asked["batch"] or (room and sent >= room):
            break
    yield status(204, "EOB", Nats_Num_Pending=left, Nats_Last_Sequence=before), b""
