"""Whatever a driver raises for a call, or takes for an answer, costs that call and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream import LogSpec, Position, Record
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.link import Link, NatsOptions
from services.common.stream.redis.broker import RedisBroker
from services.common.stream.redis.client import RedisClient
from services.common.testing.conformance import BTC, LOG, PATIENCE_S, follow, seqs, take, until
from tests.simulation.nats_model.scripted import ScriptedNats
from tools.embedded import ValkeyServer

# ---------------------------------------------------------------------- NATS

ODD: dict[str, Any] = {
    "a list": [],
    "a text": "x",
    "an error without its code": {"error": "no"},
    "an error with another code": {"error": {"err_code": "x"}},
    "nothing": {},
    "parts of another shape": {
        "state": [],
        "config": 1,
        "created": 7,
        "message": [1],
        "num_pending": None,
        "ack_floor": 3,
    },
    "a time beyond all": {
        "created": "9999-99-99T00:00:00Z",
        "config": {"num_replicas": 1},
        "state": {"last_seq": 1, "first_seq": 1, "messages": 1},
    },
}


class _OddNats(ScriptedNats):
    """Answers with `odd` what is asked of JetStream's API by a verb that begins with `verb`."""

    odd: Any = None
    verb = ""

    def answer_of(self, verb: str, payload: bytes, now_ns: int) -> bytes | None:
        if self.verb and verb.startswith(self.verb):
            return json.dumps(self.odd).encode()
        return super().answer_of(verb, payload, now_ns)


def _calls(broker: NatsBroker) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    return [
        lambda: broker.read(BTC),
        lambda: broker.first(BTC),
        lambda: broker.last(BTC),
        lambda: broker.seek(BTC, Position(1, 1)),
        lambda: broker.subjects(LOG),
        lambda: broker.log_epoch(LOG),
        lambda: broker.held(LOG),
        lambda: broker.ensure([LogSpec(LOG, 3600)]),
        broker.ping,
    ]


@pytest.mark.parametrize("verb", ["STREAM.INFO", "STREAM.MSG"])
@pytest.mark.parametrize("odd", ODD)
async def test_an_answer_of_jetstream_with_odd_fields_is_no_answer(odd: str, verb: str) -> None:
    async with _OddNats() as server, NatsBroker([server.url], replicas=3) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        server.odd, server.verb = ODD[odd], verb
        refused = 0
        for call in _calls(broker):
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await call()
            except BrokerUnavailable:
                refused += 1
        assert refused
        server.verb = ""
        # The same connection goes on.
        assert await broker.log_epoch(LOG)


@pytest.mark.parametrize(
    "odd", ["a text", "an error without its code", "an error with another code"]
)
async def test_a_ping_that_is_answered_oddly_is_not_answered(odd: str) -> None:
    async with _OddNats() as server, NatsBroker([server.url]) as broker:
        await broker.ping()
        server.odd, server.verb = ODD[odd], "INFO"
        with pytest.raises(BrokerUnavailable):
            await broker.ping()


@pytest.mark.parametrize("field", ["num_ack_pending", "ack_floor", "config"])
async def test_a_group_whose_consumer_is_told_with_odd_fields_goes_on_when_it_is_not(
    field: str,
) -> None:
    info: dict[str, Any] = {
        "config": {},
        "num_ack_pending": 0,
        "num_pending": 0,
        "ack_floor": {"stream_seq": 0},
    }
    async with _OddNats() as server, NatsBroker([server.url]) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        server.odd, server.verb = {**info, field: "odd"}, "CONSUMER"
        async with asyncio.TaskGroup() as tasks:
            joining = tasks.create_task(broker.group(LOG, "readers"))
            asked = broker.requests
            await until(lambda: _more(broker, asked + 6))
            assert not joining.done()
            server.odd = info
            member = await joining
        server.odd = {**info, "num_pending": "many"}
        with pytest.raises(BrokerUnavailable):
            await member.lag()
        with pytest.raises(BrokerUnavailable):
            await member.unread()
        server.odd = info
        assert await member.lag() == 0


async def _more(broker: NatsBroker, requests: int) -> bool:
    return broker.requests >= requests


@pytest.mark.parametrize(
    "line",
    [
        *(b"INFO {", b"INFO 7", b'INFO {"connect_urls": ["["]}'),
        *(b"MSG a 1 -15", b"HMSG a 1 -20 -9", b"HMSG a 1 9 2"),
    ],
)
async def test_a_line_that_nats_py_cannot_take_ends_the_connection_at_once(line: bytes) -> None:
    async with ScriptedNats() as server:
        link = Link(NatsOptions((server.url,)), "test")
        connection = await link.connected()
        for client in server.clients:
            client.transport.write(line + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await connection.lost.wait()
            assert await link.connected() is not connection
        await link.aclose()


# What nats-py finds where a server should greet.
GREETINGS = {
    "no words": b"\xff\xfe\x00\r\n",
    "a page": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no end": b"x" * 200_000,
    "half a greeting": b"INFO {\r\n",
    "a greeting of another shape": b"INFO []\r\n",
    "a greeting without its fields": b"INFO {}\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
async def test_what_is_no_nats_server_is_tried_again_and_ends_nobody(greeting: bytes) -> None:
    tried = asyncio.Queue[None]()

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.put_nowait(None)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    link = Link(NatsOptions((f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}",)), "test")
    async with server, asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await tried.get()
    assert not link.ended
    await link.aclose()


# ---------------------------------------------------------------------- Redis


@asynccontextmanager
async def _answering(*answers: bytes) -> AsyncIterator[RedisClient]:
    """A client of a server that gives these answers, one for each command, then `+OK`."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = [await _word(reader) for _ in range(int(line[1:]))]
                # What redis-py says of itself when it connects is none of these.
                setting_up = words[0] in (b"CLIENT", b"SELECT", b"HELLO")
                writer.write(left.pop(0) if left and not setting_up else b"+OK\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = RedisClient(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    async with server:
        try:
            yield client
        finally:
            await client.aclose()


async def _word(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline())[1:])
    return (await reader.readexactly(size + 2))[:-2]


ANSWERS = {
    "a number that is none": b":abc\r\n",
    "a text of no size": b"$x\r\n",
    "a list of no size": b"*?\r\n",
    "no Redis": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an error in no text": b"-\xff\xfe\r\n",
    "nested without end": b"*1\r\n" * 5000,
    "another shape": b"*2\r\n*1\r\n:1\r\n:2\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_redis_py_cannot_read_is_no_answer(answer: bytes) -> None:
    async with _answering(answer) as client:
        with pytest.raises(BrokerUnavailable):
            await client.call("XINFO STREAM", "a")
        assert await client.call("GET", "b") == b"OK"


async def test_what_is_left_of_answers_that_cannot_be_read_is_taken_for_no_others() -> None:
    odd = ANSWERS["another shape"]
    async with _answering(odd, b"+first\r\n", b"+second\r\n", b"+third\r\n") as client:
        with pytest.raises(BrokerUnavailable):
            await client.batch([("XINFO STREAM", "a"), ("GET", "b"), ("GET", "c")])
        assert await client.call("GET", "d") == b"third"


@pytest.mark.parametrize(
    ("key", "spoil", "mend"),
    [
        ("market:epoch:raw", ("SET", "market:epoch:raw", "soon"), None),
        ("market:epoch:raw", ("LPUSH", "market:epoch:raw", "1"), None),
        ("market:registry:raw", ("SET", "market:registry:raw", "x"), None),
        ("market:trimmed:raw", ("SET", "market:trimmed:raw", "x"), ("DEL", "market:trimmed:raw")),
    ],
)
async def test_what_others_put_at_a_logs_own_keys_is_waited_out(
    valkey_server: ValkeyServer, key: str, spoil: tuple[str, ...], mend: tuple[str, ...] | None
) -> None:
    async with RedisBroker(valkey_server.url) as broker:
        await broker.ensure([LogSpec(LOG, 3600)])
        call = broker._calls().call
        publisher = await broker.publisher()
        member = await broker.group(LOG, "readers")
        live = await broker.live(LOG)
        await publisher.durable(await publisher.send(Record(BTC, b"x", Position(1, 1))))
        assert seqs(await take(member, 1)) == seqs(await follow(live, 1)) == [1]
        held = await call("DUMP", key)
        await call("DEL", key)
        await call(*spoil)
        ticket = await publisher.send(Record(BTC, b"x", Position(1, 2)))
        for asked in (broker.read(BTC), broker.last(BTC), broker.subjects(LOG), member.lag()):
            try:
                await asked
            except BrokerUnavailable:
                continue
        await broker.trim() if mend else None
        await call("DEL", key)
        await call(*(mend or ("RESTORE", key, 0, held)))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.durable(ticket)
            assert seqs(await take(member, 1))[-1:] == [2]
            assert 2 in seqs(await follow(live, 1))
