"""Requests over a connection: how long an answer in many pieces may take."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.connection import Answer
from services.common.stream.nats.link import Link, NatsOptions
from tools.embedded import NatsServer

PIECES = 6
PAUSE_S = 0.05
SILENCE_S = 0.2


async def test_an_answer_in_pieces_may_take_longer_than_a_silence_may() -> None:
    async with NatsServer() as server:
        asker = Link(NatsOptions((server.url,)), "asker")
        answerer = Link(NatsOptions((server.url,)), "answerer")
        try:
            other = await answerer.connected()
            wanted: asyncio.Queue[str] = asyncio.Queue()
            other.subscribe("slow", lambda _s, reply, _h, _b: wanted.put_nowait(reply))
            await other.client.flush()

            async def answer(pieces: int) -> None:
                reply = await wanted.get()
                for piece in range(pieces):
                    await asyncio.sleep(PAUSE_S)
                    other.write(f"PUB {reply} 1\r\n{piece}\r\n".encode())

            connection = await asker.connected()
            found: list[bytes] = []

            def last(piece: Answer) -> bool:
                found.append(piece.payload)
                return len(found) == PIECES

            async with asyncio.TaskGroup() as group:
                group.create_task(answer(PIECES))
                await connection.collect("slow", None, last, SILENCE_S)
            assert found == [str(piece).encode() for piece in range(PIECES)]

            found.clear()
            async with asyncio.TaskGroup() as group:
                group.create_task(answer(PIECES - 1))
                with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.2 s"):
                    await connection.collect("slow", None, last, SILENCE_S)
            assert len(found) == PIECES - 1
        finally:
            await asker.aclose()
            await answerer.aclose()
