"""The model as a server: connections, subscriptions, and who is sent what."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, cast

from tests.simulation.nats_model.api import JetStream, as_json, error_of
from tests.simulation.nats_model.consumer import Consumer, Pull
from tests.simulation.nats_model.stream import Refused, Stream
from tests.simulation.nats_model.subjects import matches
from tests.simulation.nats_model.wire import (
    Command,
    Commands,
    ProtocolViolation,
    message,
    status,
)

_API = "$JS.API."
_ACK = "$JS.ACK."
_PULL_HEAD = ["CONSUMER", "MSG", "NEXT"]
# Of a pull that does not say for how long, in nanoseconds.
_LONGEST_PULL_NS = 3600 * 1_000_000_000
# A client for whom this much waits is a slow consumer, and cut off, in bytes.
_MAX_PENDING = 64 * 1024 * 1024


class _Client(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._commands = Commands()
        self.subscriptions: dict[str, str] = {}
        self.no_responders = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no asyncio.Transport by type, but by what they do.
        self.transport = cast("asyncio.Transport", transport)
        self._server.clients[self] = None
        info = self._server.info()
        self.transport.write(b"INFO %b \r\n" % json.dumps(info).encode())

    def connection_lost(self, error: Exception | None) -> None:
        self._server.clients.pop(self, None)

    def data_received(self, data: bytes) -> None:
        try:
            for command in self._commands.feed(data):
                self._obey(command)
        except ProtocolViolation as violation:
            self.transport.write(b"-ERR '%b'\r\n" % violation.said.encode())
            self.transport.close()

    def _obey(self, command: Command) -> None:
        match command.verb, command.arguments:
            case "PING", _:
                self.transport.write(b"PONG\r\n")
            case "CONNECT", (options,):
                self.no_responders = bool(json.loads(options).get("no_responders"))
            case "SUB", (subject, *_queue, sid):
                self.subscriptions[sid] = subject
            case "UNSUB", (sid, *_after):
                self.subscriptions.pop(sid, None)
            case "PUB", (subject, *reply):
                to = reply[0] if reply else ""
                self._server.published(self, subject, to, command.headers, command.payload)
            case "PONG", _:
                pass
            case _:
                raise ProtocolViolation("Unknown Protocol Operation")

    def send(self, subject: str, sid: str, reply: str, headers: bytes, payload: bytes) -> None:
        self.transport.write(message(subject, sid, reply, headers, payload))
        if self.transport.get_write_buffer_size() > _MAX_PENDING:
            self.transport.abort()


class ModelServer:
    """One server; `jetstream` is what its disk holds, and stays when it is killed."""

    # As the platform asks of its servers.
    max_payload = 8 * 1024 * 1024

    def __init__(self, name: str = "model") -> None:
        self.jetstream = JetStream(name)
        self.clients: dict[_Client, None] = {}
        self.port = 0
        self._server: asyncio.AbstractServer | None = None
        self._pulls: dict[Consumer, list[Pull]] = {}
        self._timers: dict[Consumer, asyncio.TimerHandle] = {}
        self.jetstream.on_gone = self._gone
        self.jetstream.on_ready = self._dispatch

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def info(self) -> dict[str, Any]:
        """What a client is told first."""
        return {
            "server_id": self.jetstream.server_name,
            "server_name": self.jetstream.server_name,
            "version": "2.15.1",
            "proto": 1,
            "headers": True,
            "max_payload": self.max_payload,
            "jetstream": True,
            "host": "0.0.0.0",
            "port": self.port,
        }

    async def start(self, host: str = "127.0.0.1") -> None:
        """Listen, on the port that it had before if it had one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """End as SIGKILL does: what was acknowledged stays, what was asked is forgotten."""
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.transport.abort()
        self.clients.clear()
        self._pulls.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # -- subjects

    def _subscribed(self, subject: str) -> Iterator[tuple[_Client, str]]:
        for client in self.clients:
            for sid, pattern in client.subscriptions.items():
                if matches(pattern, subject):
                    yield client, sid

    def deliver(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """Send to whoever subscribed to it; whether anybody has."""
        found = list(self._subscribed(subject))
        for client, sid in found:
            client.send(subject, sid, reply, headers, payload)
        return bool(found)

    def published(
        self, client: _Client, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        """What a client published."""
        if len(headers) + len(payload) > self.max_payload:
            client.transport.write(b"-ERR 'Maximum Payload Violation'\r\n")
            client.transport.close()
            return
        if subject.startswith(_API):
            taken = self._called(subject.removeprefix(_API), reply, payload)
        elif subject.startswith(_ACK):
            taken = self._acked(subject, reply, payload)
        else:
            taken = self.deliver(subject, reply, headers, payload)
            if (stream := self.jetstream.stream_for(subject)) is not None:
                self._stored(stream, subject, reply, headers, payload)
                taken = True
        if not taken and reply and client.no_responders:
            self.deliver(reply, "", status(503, Nats_Subject=subject), b"")

    def _stored(
        self, stream: Stream, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        name = stream.config["name"]
        try:
            accepted = stream.publish(subject, headers, payload, time.time_ns())
        except Refused as refused:
            answer = as_json({"error": error_of(refused), "stream": name, "seq": 0})
        else:
            if accepted is None:
                return
            said = f'{{"stream":"{name}","seq":{accepted.seq}'
            if accepted.duplicate:
                said += ',"duplicate": true'
            if accepted.batch:
                said += f',"batch":"{accepted.batch}","count":{accepted.count}'
            answer = said + "}"
            for key, consumer in self.jetstream.consumers.items():
                if key[0] == name:
                    self._dispatch(consumer)
        if reply:
            self.deliver(reply, "", b"", answer.encode())

    # -- JetStream

    def _called(self, verb: str, reply: str, payload: bytes) -> bool:
        tokens = verb.split(".")
        now_ns = time.time_ns()
        if tokens[:3] == _PULL_HEAD:
            return self._pulled(tokens[3], tokens[4], reply, payload, now_ns)
        if tokens[:2] == ["DIRECT", "GET"]:
            if not self.jetstream.answers_directly(tokens[2]):
                return False
            for headers, body in self.jetstream.direct_get(tokens[2], payload, now_ns):
                self.deliver(reply, "", headers, body)
            return True
        answer = self.jetstream.answer(verb, payload, now_ns)
        if answer:
            self.deliver(reply, "", b"", answer)
        return answer is not None

    def _acked(self, subject: str, reply: str, said: bytes) -> bool:
        _js, _ack, stream, name, _times, seq, *_rest = subject.split(".")
        consumer = self.jetstream.consumers.get((stream, name))
        if consumer is None:
            return False
        consumer.answered(int(seq), said, time.time_ns())
        if reply:
            self.deliver(reply, "", b"", b"")
        self._dispatch(consumer)
        return True

    def _pulled(self, stream: str, name: str, reply: str, payload: bytes, now_ns: int) -> bool:
        consumer = self.jetstream.consumers.get((stream, name))
        if consumer is None:
            return False
        asked = json.loads(payload)
        pull = Pull(
            reply,
            int(asked.get("batch", 1)),
            int(asked.get("max_bytes", 0)),
            now_ns + int(asked.get("expires", _LONGEST_PULL_NS)),
            int(asked.get("idle_heartbeat", 0)),
            now_ns,
        )
        pulls = self._pulls.setdefault(consumer, [])
        pulls.append(pull)
        self._dispatch(consumer)
        if asked.get("no_wait") and pull in pulls:
            pulls.remove(pull)
            self.deliver(reply, "", status(404, "No Messages"), b"")
        return True

    def _gone(self, consumer: Consumer) -> None:
        for pull in self._pulls.pop(consumer, []):
            self.deliver(pull.reply, "", status(409, "Consumer Deleted"), b"")
        if (timer := self._timers.pop(consumer, None)) is not None:
            timer.cancel()

    def _dispatch(self, consumer: Consumer) -> None:
        """Give out what there is to those who asked, and see to what time brings."""
        now_ns = time.time_ns()
        pulls = self._pulls.get(consumer, [])
        consumer.overdue(now_ns)
        for pull in pulls[:]:
            if pull.expires_ns <= now_ns:
                self._end(pulls, pull, 408, "Request Timeout")
            elif not any(self._subscribed(pull.reply)):
                pulls.remove(pull)
        while pulls and (record := consumer.next(now_ns)) is not None:
            pull = pulls[0]
            size = consumer.size_of(record) if pull.max_bytes else 0
            if size > pull.max_bytes:
                self._end(pulls, pull, 409, "Message Size Exceeds MaxBytes")
                continue
            given = consumer.give(record, now_ns)
            inbox = self._subscribed(pull.reply)
            for client, sid in inbox:
                client.send(record.subject, sid, given.reply, record.headers, record.payload)
            pull.batch -= 1
            pull.max_bytes = max(1, pull.max_bytes - size) if pull.max_bytes else 0
            pull.heard_ns = now_ns
            if not pull.batch:
                pulls.remove(pull)
        for pull in pulls:
            if pull.heartbeat_ns and now_ns - pull.heard_ns >= pull.heartbeat_ns:
                pull.heard_ns = now_ns
                self.deliver(pull.reply, "", status(100, "Idle Heartbeat"), b"")
        self._wait(consumer, pulls, now_ns)

    def _end(self, pulls: list[Pull], pull: Pull, code: int, why: str) -> None:
        pulls.remove(pull)
        left = {"Nats_Pending_Messages": pull.batch, "Nats_Pending_Bytes": pull.max_bytes}
        self.deliver(pull.reply, "", status(code, why, **left), b"")

    def _wait(self, consumer: Consumer, pulls: list[Pull], now_ns: int) -> None:
        if (timer := self._timers.pop(consumer, None)) is not None:
            timer.cancel()
        due = [pull.expires_ns for pull in pulls]
        due += [pull.heard_ns + pull.heartbeat_ns for pull in pulls if pull.heartbeat_ns]
        if pulls and (overdue := consumer.due_ns()) is not None:
            due.append(overdue)
        if due:
            delay = max(0.0, (min(due) - now_ns) / 1e9)
            loop = asyncio.get_running_loop()
            self._timers[consumer] = loop.call_later(delay, self._dispatch, consumer)
