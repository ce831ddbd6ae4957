"""A call that is cancelled, at whatever step, leaves no connection open and none that is lost."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator

import httpx
import pytest

from services.common.testing.waiting import WAIT_S
from services.ingestor.feed import rest_call
from services.ingestor.feed.rest_call import get, open_http

_TOGETHER = 4
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


class Venue:
    """Answers requests as soon as `_TOGETHER` of them are there, or at once after `alone`."""

    def __init__(self) -> None:
        self.url = ""
        self.open = 0
        self._together = asyncio.Barrier(_TOGETHER)
        self.alone = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if not self.alone:
                    await self._together.wait()
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    venue = Venue()
    async with await asyncio.start_server(venue.serve, "127.0.0.1", 0) as server:
        venue.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        yield venue


async def cut_after(client: httpx.AsyncClient, turns: int) -> bool:
    """Cancel a call after so many turns of the loop; whether it had ended before."""
    call = asyncio.create_task(get(client, "/trades", {}))
    for _ in range(turns):
        await asyncio.sleep(0)
    if call.done():
        await call
        return True
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    return False


async def settled(venue: Venue, connections: int) -> None:
    """Wait until the venue has seen the ends of all but so many connections."""
    async with asyncio.timeout(WAIT_S):
        while venue.open > connections:  # noqa: ASYNC110 - the other side of the sockets
            await asyncio.sleep(0)


@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
async def test_a_call_that_is_cut_at_any_step_costs_no_place(venue: Venue, kept: bool) -> None:
    """Connections that were never used again added up, until no call found a place."""
    venue.alone = True
    turns = 0
    async with open_http(venue.url, 3.0) as client:
        while True:
            if kept:
                await get(client, "/trades", {})
            if await cut_after(client, turns):
                break
            turns += 1
            if not kept:
                await settled(venue, 0)
        assert turns > 3
        await settled(venue, 1)
    await settled(venue, 0)


async def test_a_call_that_is_cut_while_expired_connections_are_closed_leaves_none_open(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were told of as unclosed when the collector, or the end of the loop, found them."""
    monkeypatch.setattr(rest_call, "_IDLE_S", -1.0)
    turns = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        while True:
            async with open_http(venue.url, 3.0) as client:
                venue.alone = False
                calls = (get(client, "/trades", {}) for _ in range(_TOGETHER))
                await asyncio.gather(*calls)
                venue.alone = True
                ended = await cut_after(client, turns)
            gc.collect()
            if ended:
                break
            turns += 1
        await settled(venue, 0)
    assert turns > _TOGETHER
    assert [str(each.message) for each in told] == []


async def test_a_connection_serves_the_next_call(venue: Venue) -> None:
    venue.alone = True
    async with open_http(venue.url, 3.0) as client:
        for _ in range(3):
            await get(client, "/trades", {})
            assert venue.open == 1
