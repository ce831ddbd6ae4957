"""A NATS server with one JetStream stream in miniature, whose answers to publishing are scripted.

For what a real cluster does one time in ten: it refuses a batch and takes the next, answers late,
answers nothing, or forgets what it had acknowledged. Connections are real; the log is a list.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import deque
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple, Self

from services.common.stream.nats.wire import header_of

_INFO = (
    b'INFO {"server_id":"script","server_name":"script","version":"2.15.1","proto":1,'
    b'"headers":true,"max_payload":8388608,"host":"127.0.0.1","port":0}\r\n'
)
_CREATED = "2026-01-01T00:00:00.000001Z"
_NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Verdict(Enum):
    """What becomes of one publish, or of one batch as a whole."""

    STORE = "stored and acknowledged"
    REFUSE = "not stored, answered with 503, as without a leader"
    DROP = "not stored and not answered; the connection is closed"
    STORE_UNSAID = "stored and not answered; the connection is closed"
    STORE_REFUSED = "stored, but answered with 503"
    FORGET = "stored and acknowledged; then it is gone, as from a leader that was behind"


class Stored(NamedTuple):
    subject: str
    headers: bytes
    payload: bytes

    @property
    def identity(self) -> str:
        return header_of(self.headers, b"Nats-Msg-Id:") or ""


class ScriptedNats:
    """Use as a context.

    Args:
        replicas: what the stream says it has.
        batches: it takes atomic batches.
        verdicts: of the publishes to come; STORE when there are no more.
    """

    def __init__(self, *, replicas: int, batches: bool, verdicts: list[Verdict]) -> None:
        self.log: list[Stored] = []
        self.forgotten: list[Stored] = []
        self._held: set[str] = set()
        self._config = {"num_replicas": replicas, "allow_atomic": batches}
        self._verdicts = deque(verdicts)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    def identities(self, subject: str) -> list[str]:
        return [stored.identity for stored in self.log if stored.subject == subject]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        client = _Client(self, writer)
        writer.write(_INFO)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                line = (await reader.readuntil(b"\r\n")).decode().split()
                match line[0].upper():
                    case "PING":
                        writer.write(b"PONG\r\n")
                    case "SUB":
                        client.subscribe(line[1], line[-1])
                    case "PUB" | "HPUB":
                        body = (await reader.readexactly(int(line[-1]) + 2))[:-2]
                        head = int(line[-2]) if line[0].upper() == "HPUB" else 0
                        names = line[1:-2] if head else line[1:-1]
                        reply = names[1] if len(names) > 1 else ""
                        client.published(names[0], reply, body[:head], body[head:])
        self._writers.discard(writer)
        writer.close()

    def verdict(self) -> Verdict:
        return self._verdicts.popleft() if self._verdicts else Verdict.STORE

    def answer(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        """What JetStream's API answers."""
        if verb.startswith("STREAM.INFO"):
            state = {"last_seq": len(self.log), "first_seq": 1, "messages": len(self.log)}
            return {"config": self._config, "created": _CREATED, "state": state}
        if verb.startswith("STREAM.MSG.GET"):
            found = self.find(body)
            if found is None:
                return {"error": {"code": 404, "err_code": 10037, "description": "no message"}}
            seq, stored = found
            return {"message": {"subject": stored.subject, "seq": seq, **_encoded(stored)}}
        return {}

    def find(self, body: dict[str, Any]) -> tuple[int, Stored] | None:
        """The record that a request for a single one names, with its sequence."""
        if "last_by_subj" in body:
            subject, places = body["last_by_subj"], range(len(self.log), 0, -1)
        else:
            subject, places = body["next_by_subj"], range(body["seq"], len(self.log) + 1)
        return next(
            ((n, self.log[n - 1]) for n in places if self.log[n - 1].subject == subject), None
        )

    def append(self, items: list[Stored]) -> None:
        self.log += items
        self._held.update(stored.identity for stored in items)

    def forget(self, count: int) -> None:
        """Lose the newest."""
        gone = self.log[-count:]
        del self.log[-count:]
        self.forgotten += gone
        self._held.difference_update(stored.identity for stored in gone)

    def refusal(self, items: list[Stored], batch: str | None) -> tuple[dict[str, Any] | None, bool]:
        """What there is against storing these; and whether it is a single one that is stored."""
        if any(stored.identity in self._held for stored in items):
            if batch is None:
                return None, True
            return {"err_code": 10201, "description": "batch publish contains duplicate"}, False
        follows = header_of(items[0].headers, b"Nats-Expected-Last-Msg-Id:")
        newest = self.log[-1].identity if self.log else ""
        if follows is not None and follows != newest:
            return {"err_code": 10070, "description": f"wrong last msg ID: {newest}"}, False
        return None, False


class _Client:
    """One connection's subscriptions and unfinished batches."""

    def __init__(self, server: ScriptedNats, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._writer = writer
        self._sids: dict[str, str] = {}
        self._batches: dict[str, list[Stored]] = {}

    def subscribe(self, pattern: str, sid: str) -> None:
        self._sids[pattern.removesuffix(".*")] = sid

    def _reply(self, to: str, payload: bytes, headers: bytes = b"") -> None:
        sid = self._sids[to.rpartition(".")[0]]
        size = len(headers) + len(payload)
        verb, sizes = ("HMSG", f"{len(headers)} {size}") if headers else ("MSG", f"{size}")
        self._writer.write(f"{verb} {to} {sid} {sizes}\r\n".encode() + headers + payload + b"\r\n")

    def published(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if subject.startswith("$JS.API.DIRECT.GET."):
            self._direct_get(reply, json.loads(payload))
        elif subject.startswith("$JS.API."):
            verb = subject.removeprefix("$JS.API.")
            answer = self._server.answer(verb, json.loads(payload or b"{}"))
            self._reply(reply, json.dumps(answer).encode())
        else:
            self._store(Stored(subject, headers, payload), reply)

    def _store(self, stored: Stored, reply: str) -> None:
        batch = header_of(stored.headers, b"Nats-Batch-Id:")
        items = [stored]
        if batch is not None:
            items = self._batches.setdefault(batch, [])
            items.append(stored)
            if header_of(stored.headers, b"Nats-Batch-Commit:") is None:
                return
        self._decide(items, reply, batch)

    def _decide(self, items: list[Stored], reply: str, batch: str | None) -> None:
        server = self._server
        verdict = server.verdict()
        if verdict is Verdict.REFUSE:
            self._reply(reply, b"", _NO_RESPONDERS)
            return
        if verdict is Verdict.DROP:
            self._writer.close()
            return
        error, known = server.refusal(items, batch)
        if error is None and not known:
            server.append(items)
        if verdict is Verdict.STORE_UNSAID:
            self._writer.close()
        elif verdict is Verdict.STORE_REFUSED:
            self._reply(reply, b"", _NO_RESPONDERS)
        elif error is not None:
            self._reply(reply, json.dumps({"error": error, "stream": "S", "seq": 0}).encode())
        else:
            said: dict[str, Any] = {"stream": "S", "seq": len(server.log)}
            if known:
                said["duplicate"] = True
            elif batch is not None:
                said |= {"batch": batch, "count": len(items)}
            self._reply(reply, json.dumps(said).encode())
        if verdict is Verdict.FORGET and error is None and not known:
            server.forget(len(items))

    def _direct_get(self, reply: str, body: dict[str, Any]) -> None:
        if "batch" not in body:
            found = self._server.find(body)
            if found is None:
                self._reply(reply, b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
            else:
                self._reply(reply, found[1].payload, _direct(*found))
            return
        rest = [
            (seq, stored)
            for seq, stored in enumerate(self._server.log, 1)
            if seq >= body["seq"] and stored.subject == body["next_by_subj"]
        ]
        page = rest[: body["batch"]]
        for number, (seq, stored) in enumerate(page, 1):
            left = len(rest) - number
            self._reply(reply, stored.payload, _direct(seq, stored, left))
        left = len(rest) - len(page)
        status = "204 EOB" if page else "404 Message Not Found"
        self._reply(reply, b"", f"NATS/1.0 {status}\r\nNats-Num-Pending: {left}\r\n\r\n".encode())


def _direct(seq: int, stored: Stored, left: int | None = None) -> bytes:
    """The headers of a record that a direct get answers."""
    pending = "" if left is None else f"Nats-Num-Pending: {left}\r\n"
    added = f"Nats-Stream: S\r\nNats-Subject: {stored.subject}\r\nNats-Sequence: {seq}\r\n{pending}"
    return stored.headers.removesuffix(b"\r\n") + added.encode() + b"\r\n"


def _encoded(stored: Stored) -> dict[str, str]:
    return {
        "hdrs": b64encode(stored.headers).decode(),
        "data": b64encode(stored.payload).decode(),
    }
