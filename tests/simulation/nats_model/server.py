"""The model as a server: connections, subscriptions, and who is sent what."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from random import Random
from typing import Any, cast

from tests.simulation.nats_model.api import NO_ROOM, NO_SPACE, JetStream, refusal
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


class Client(asyncio.Protocol):
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
        self.clients: dict[Client, None] = {}
        # Whether its store takes nothing more, and how late it says what was stored.
        self.full = False
        self.answers_late_s = 0.0
        # Of how many of all it says nothing.
        self.answers_lost = 0.0
        self.chance = Random(0)
        self.port = 0
        self._server: asyncio.AbstractServer | None = None
        self._pulls: dict[Consumer, list[Pull]] = {}
        self._timers: dict[Consumer, asyncio.TimerHandle] = {}
        self.jetstream.on_gone = self._gone
        self.jetstream.on_ready = self.dispatch

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
        self._server = await loop.create_server(lambda: Client(self), host, self.port)
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

    def lame_duck(self) -> None:
        """Tell the clients that it is about to end; whoever says so ends it a little later."""
        told = b"INFO %b \r\n" % json.dumps(self.info() | {"ldm": True}).encode()
        for client in self.clients:
            client.transport.write(told)

    def lose_tail(self, since_ns: int) -> None:
        """Lose what was stored from then on, as a machine without power does that had not synced.

        A consumer that was ahead of what is left goes on at its end, as the real one does.
        """
        for stream in self.jetstream.streams.values():
            newer = (seq for seq, held in stream.records.items() if held.time_ns >= since_ns)
            stream.lose_from(next(newer, stream.last + 1))
        for consumer in self.jetstream.consumers.values():
            consumer.keep_to_stream()

    # -- subjects

    def _subscribed(self, subject: str) -> Iterator[tuple[Client, str]]:
        for client in self.clients:
            for sid, pattern in client.subscriptions.items():
                if matches(pattern, subject):
                    yield client, sid

    def wanted(self, subject: str) -> bool:
        """Whether anybody subscribed to it."""
        return any(self._subscribed(subject))

    def deliver(
        self, subject: str, reply: str, headers: bytes, payload: bytes, to: str = ""
    ) -> bool:
        """Send to whoever subscribed to it (or to `to`); whether anybody has."""
        found = list(self._subscribed(to or subject))
        for client, sid in found:
            client.send(subject, sid, reply, headers, payload)
        return bool(found)

    def published(
        self, client: Client, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        """What a client published."""
        if len(headers) + len(payload) > self.max_payload:
            client.transport.write(b"-ERR 'Maximum Payload Violation'\r\n")
            client.transport.close()
            return
        if subject.startswith(_API):
            taken = self.ask(subject.removeprefix(_API), reply, payload)
        elif subject.startswith(_ACK):
            taken = self.say(subject, reply, payload)
        else:
            taken = self.deliver(subject, reply, headers, payload)
            taken |= self.store(subject, reply, headers, payload)
        if not taken and reply and client.no_responders:
            self.deliver(reply, "", status(503, Nats_Subject=subject), b"")

    def store(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """Have a stream take what was published; whether there is one for it."""
        stream = self.jetstream.stream_for(subject)
        if stream is None:
            return False
        if self.full:
            self.answer(reply, refusal(stream.config["name"], NO_ROOM))
        else:
            told = self.put(stream, subject, headers, payload, time.time_ns())
            self.answer(reply, told)
        return True

    def put(
        self, stream: Stream, subject: str, headers: bytes, payload: bytes, now_ns: int
    ) -> bytes:
        """Store it; what its publisher is told, nothing within a batch."""
        name = stream.config["name"]
        try:
            accepted = stream.publish(subject, headers, payload, now_ns)
        except Refused as refused:
            return refusal(name, refused)
        if accepted is None:
            return b""
        for key, consumer in list(self.jetstream.consumers.items()):
            if key[0] == name:
                self.dispatch(consumer)
        said = f'{{"stream":"{name}","seq":{accepted.seq}'
        if accepted.duplicate:
            said += ',"duplicate": true'
        if accepted.batch:
            said += f',"batch":"{accepted.batch}","count":{accepted.count}'
        return f"{said}}}".encode()

    def answer(self, reply: str, told: bytes) -> None:
        """Tell a publisher what became of it: at once, `answers_late_s` later, or never."""
        if not reply or not told or self.chance.random() < self.answers_lost:
            return
        if self.answers_late_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.answers_late_s, self.deliver, reply, "", b"", told)
        else:
            self.deliver(reply, "", b"", told)

    # -- JetStream

    def ask(self, verb: str, reply: str, payload: bytes) -> bool:
        """Answer a request to JetStream's API; whether anybody listens there."""
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
        answer = self.answer_of(verb, payload, now_ns)
        if answer:
            self.deliver(reply, "", b"", answer)
        return answer is not None

    def answer_of(self, verb: str, payload: bytes, now_ns: int) -> bytes | None:
        """As `JetStream.answer`, from a server whose store may be full."""
        head, _, name = verb.rpartition(".")
        makes = head == "STREAM.CREATE" and name not in self.jetstream.streams
        if self.full and makes and json.loads(payload).get("max_bytes", 0) > 0:
            return self.jetstream.refusal(verb, NO_SPACE)
        return self.jetstream.answer(verb, payload, now_ns)

    def say(self, subject: str, reply: str, said: bytes) -> bool:
        """Take what a member says of a record; whether there is such a consumer."""
        _js, _ack, stream, name, _times, seq, *_rest = subject.split(".")
        consumer = self.jetstream.consumers.get((stream, name))
        if consumer is None:
            return False
        consumer.answered(int(seq), said, time.time_ns())
        if reply:
            self.deliver(reply, "", b"", b"")
        self.dispatch(consumer)
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
        self.dispatch(consumer)
        if asked.get("no_wait") and pull in pulls:
            pulls.remove(pull)
            self.deliver(reply, "", status(404, "No Messages"), b"")
        return True

    def _gone(self, consumer: Consumer) -> None:
        self.let_go(consumer, "Consumer Deleted")

    def let_go(self, consumer: Consumer, why: str) -> None:
        """Serve a consumer no longer."""
        for pull in self._pulls.pop(consumer, []):
            self.deliver(pull.reply, "", status(409, why), b"")
        if (timer := self._timers.pop(consumer, None)) is not None:
            timer.cancel()

    def dispatch(self, consumer: Consumer) -> None:
        """Give out what there is to those who asked, and see to what time brings."""
        now_ns = time.time_ns()
        pulls = self._pulls.get(consumer, [])
        consumer.overdue(now_ns)
        for pull in pulls[:]:
            if pull.expires_ns <= now_ns:
                self._end(pulls, pull, 408, "Request Timeout")
            elif not self.wanted(pull.reply):
                pulls.remove(pull)
        while pulls and (record := consumer.next(now_ns)) is not None:
            pull = pulls[0]
            size = consumer.size_of(record) if pull.max_bytes else 0
            if size > pull.max_bytes:
                self._end(pulls, pull, 409, "Message Size Exceeds MaxBytes")
                continue
            given = consumer.give(record, now_ns)
            self.deliver(record.subject, given.reply, record.headers, record.payload, to=pull.reply)
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
            self._timers[consumer] = loop.call_later(delay, self.dispatch, consumer)
