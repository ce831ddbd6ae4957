"""The live subscription over a lost connection: news of a hole never comes after the hole."""

from __future__ import annotations

import asyncio

from services.common.stream import Position
from services.common.stream.nats.connection import Connection
from services.common.stream.nats.link import Link, NatsOptions
from services.common.stream.nats.live import NatsLive
from services.common.stream.nats.records import message_id
from services.common.stream.nats.streams import LogState, Streams
from services.common.subjects import StreamKey, raw_subject
from tools.embedded import NatsServer

SUBJECT = raw_subject(StreamKey("coinbase", "trades", "BTC-USD"))


def publication(seq: int) -> bytes:
    headers = f"NATS/1.0\r\nNats-Msg-Id: {message_id(SUBJECT, Position(1, seq))}\r\n\r\n".encode()
    size = len(headers)
    return f"HPUB {SUBJECT} {size} {size + 1}\r\n".encode() + headers + b"x\r\n"


_EMPTY = {"last_seq": 0, "first_seq": 0, "messages": 0}


class _NothingStored(LogState):
    async def newest(self) -> None:
        return None


class _GatedStreams(Streams):
    """Answers for a log that is not there; the fourth time only when the gate opens.

    Each connection asks for the log's epoch, subscribes, and asks again to be sure of it.
    """

    def __init__(self) -> None:
        super().__init__("MARKET", 1)
        self.gate = asyncio.Event()
        self.asked = asyncio.Queue[Connection]()
        self._calls = 0

    async def state(self, connection: Connection, log: str) -> LogState:
        self._calls += 1
        self.asked.put_nowait(connection)
        if self._calls == 4:
            await self.gate.wait()
        config = {"num_replicas": 1}
        info = {"config": config, "created": "2026-01-01T00:00:00.000001Z", "state": _EMPTY}
        return _NothingStored(connection, log, "MARKET_RAW", info)


async def test_what_comes_while_it_joins_again_is_handed_out_with_the_interruption() -> None:
    streams = _GatedStreams()
    asked = streams.asked
    async with NatsServer() as server:
        link = Link(NatsOptions((server.url,)), "live")
        live = NatsLive(link, streams, "raw", check_s=3600)
        try:
            async with asyncio.timeout(30):
                await live.joined.wait()
                first = await asked.get()
                assert await asked.get() is first
                first.client.write(publication(1))
                batch = await live.next_batch()
                assert [message.position.seq for message in batch.messages] == [1]
                assert not batch.interrupted

                first.lose()
                second = await asked.get()
                assert second is not first
                assert await asked.get() is second
                second.client.write(publication(3))
                # The answer to a ping comes behind the message.
                await second.client.flush()
                waiting = asyncio.ensure_future(live.next_batch())
                await second.client.flush()
                assert not waiting.done()
                streams.gate.set()
                batch = await waiting
                assert batch.interrupted
                assert [message.position.seq for message in batch.messages] == [3]
        finally:
            await live.aclose()
            await link.aclose()
