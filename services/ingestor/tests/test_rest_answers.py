"""Whatever comes in place of an answer stays with the call: byte for byte on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from services.common.errors import VenueError, VenueRefused, VenueUnavailable
from services.common.resilience import CircuitBreaker
from services.common.stream.memory.broker import MemoryBroker
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.feed import rest_call
from services.ingestor.feed.limiter import Limiter
from services.ingestor.feed.rest_call import CallFailed
from services.ingestor.testing import eventually, running
from services.ingestor.venues.base import TradeRow
from tools.simulator import SimulatedExchange

Trade = dict[str, object]
TRADE: Trade = {"trade_id": 7, "price": "5.1e-7", "size": "2", "side": "buy"}


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    told = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*told, *headers, "Connection: close", "", ""]).encode() + body


GOOD = answer(json.dumps([TRADE]).encode(), "Content-Type: application/json")
# What comes in place of an answer, and may be another one the next time.
NO_ANSWERS = {
    "gzip announced over a plain body": answer(b"[]", "Content-Encoding: gzip"),
    "gzip that breaks off": answer(gzip.compress(b"[]" * 999)[:30], "Content-Encoding: gzip"),
    "deflate announced over a plain body": answer(b"[]", "Content-Encoding: deflate"),
    "a page": answer(b"<html>be right back</html>", "Content-Type: text/html"),
    "a page and a status of a gateway": answer(b"<html></html>", status="502 Bad Gateway"),
    "a page and a status of the client": answer(b"<html></html>", status="403 Forbidden"),
    "a redirect": answer(b"", "Location: /elsewhere", status="302 Found"),
    "a redirect to nowhere": answer(b"", "Location: http://[", status="302 Found"),
    "less than was announced": answer(b"[{", length=500),
    "JSON that breaks off": answer(b'[{"trade_id":7,'),
    "nothing": answer(b""),
    "no UTF-8": answer(b'["\xff"]'),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no line": b"",
    "a bottomless document": answer(b"[" * 100_000),
    "another charset": answer(b"<html>", "Content-Type: text/html; charset=no-such"),
    "a cookie for somebody else": answer(b"<", "Set-Cookie: a=b; Domain=example.com; Path=/x"),
    "a header that is none": b"HTTP/1.1 200 OK\r\n\x00\x01: x\r\n\r\n[]",
    "a chunk that is none": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n[]\r\n0\r\n\r\n"
    ),
    "too early": answer(b'{"message":"later"}', status="425 Too Early"),
}
# Documents, but not the venue's.
OTHERS = {
    "an object": answer(b'{"message":"hello"}'),
    "null": answer(b"null"),
    "numbers": answer(b"[1,2,3]"),
    "a row without its id": answer(json.dumps([{"price": "1"}]).encode()),
    "a row with a price that is none": answer(json.dumps([TRADE | {"price": "x"}]).encode()),
    "a row with a size that is none": answer(json.dumps([TRADE | {"size": "0.-10000"}]).encode()),
    "a row with a side that is none": answer(json.dumps([TRADE | {"side": "BUY"}]).encode()),
}


@asynccontextmanager
async def socket_that_says(answers: Iterator[bytes]) -> AsyncIterator[str]:
    """A server that answers each request with the next of `answers` as it stands, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def client(url: str) -> CoinbaseRest:
    return CoinbaseRest(url, Limiter(1000.0, 1000), CircuitBreaker(100, 60.0))


@pytest.mark.parametrize("bad", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_is_asked_for_again(bad: bytes) -> None:
    async with (
        socket_that_says(iter([bad, GOOD])) as url,
        client(url) as rest,
        asyncio.timeout(30),
    ):
        trades = await rest.trades("BTC-USD", 7, 7)
    assert [trade.trade_id for trade in trades] == [7]
    assert (rest.calls, rest.failures) == (2, 1)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_a_row_nobody_could_read_is_missing_still(other: bytes) -> None:
    async with socket_that_says(iter([other])) as url, client(url) as rest:
        trades: Sequence[TradeRow] = []
        # Another document is unreadable as a whole.
        with contextlib.suppress(VenueUnavailable):
            trades = await rest.trades("BTC-USD", 7, 7)
        assert trades == []


CALLS: dict[str, Callable[[CoinbaseRest], object]] = {
    "products": lambda rest: rest.tradable(),
    "ticker": lambda rest: rest.ticker("BTC-USD"),
    "book": lambda rest: rest.book("BTC-USD"),
    "orders": lambda rest: rest.orders("BTC-USD"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "document",
    ["null", "7", "[7]", '{"bids":7,"asks":[]}', '{"trade_id":"x"}', '{"trade_id":1,"price":"x"}'],
)
async def test_another_document_is_an_answer_of_no_call(
    call: Callable[[CoinbaseRest], object], document: str
) -> None:
    async with socket_that_says(iter([answer(document.encode())])) as url, client(url) as rest:
        with pytest.raises(VenueUnavailable, match="unreadable"):
            await call(rest)  # type: ignore[misc]  # any of its coroutines


async def test_an_order_with_a_number_that_nobody_can_hold_costs_itself() -> None:
    book = b'{"bids":[["1","2","a"],["1",1e400,"b"]],"asks":null,"sequence":3}'
    async with socket_that_says(iter([answer(book)])) as url, client(url) as rest:
        orders = await rest.orders("BTC-USD")
    assert (orders.sequence, orders.bids, orders.asks) == (3, [("1", "2", "a")], [])


async def test_what_the_client_library_cannot_read_of_the_proxy_variables_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # httpx fails on any of these where it reads the environment itself.
    monkeypatch.setenv("HTTPS_PROXY", "proxy.corp:3128")
    monkeypatch.setenv("NO_PROXY", "::1,fd00::/8,10.0.0.0/8,127.0.0.1")
    async with socket_that_says(iter([GOOD])) as url, client(url) as rest:
        trades = await rest.trades("BTC-USD", 7, 7)
    assert [trade.trade_id for trade in trades] == [7]


async def test_only_the_venues_own_words_are_a_refusal() -> None:
    refusal = answer(b'{"message":"NotFound"}', status="404 Not Found")
    async with socket_that_says(iter([refusal])) as url, client(url) as rest:
        with pytest.raises(VenueRefused, match="NotFound") as caught:
            await rest.ticker("OLD-USD")
    assert caught.value.status == 404


async def test_an_answer_without_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_call, "MAX_ANSWER_BYTES", 1000)
    bomb = answer(gzip.compress(b"[" + b" " * 10_000 + b"]"), "Content-Encoding: gzip")
    async with socket_that_says(iter([bomb])) as url, httpx.AsyncClient(base_url=url) as one:
        with pytest.raises(CallFailed, match="1000 bytes"):
            await rest_call.get(one, "/", {})


async def test_an_answer_that_drips_in_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_call, "ANSWER_S", 0.05)
    halves = iter([answer(b"[", length=3)])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(halves))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as one:
        with pytest.raises(CallFailed, match="TimeoutError"):
            await rest_call.get(one, "/", {})


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
async def test_a_venue_that_is_not_there_is_unavailable(url: str) -> None:
    async with client(url) as rest:
        with pytest.raises(VenueError):
            await rest.tradable()


@pytest.mark.parametrize("kind", ["undecodable", "html", "cut", "empty"])
async def test_an_ingestor_starts_and_serves_whatever_rest_answers(kind: str) -> None:
    async with (
        SimulatedExchange(products=("BTC-USD",), paced=False) as exchange,
        MemoryBroker() as broker,
    ):
        exchange.control(rest={"answer": kind, "probability": 1.0})
        async with running(broker, exchange.ws_url, exchange.rest_url, "BTC-USD") as ingestor:
            await eventually(lambda: any(feed.connected for feed in ingestor.feeds))
            streams = ingestor.feeds[0].products["BTC-USD"]
            assert streams.trades is not None
            trades = streams.trades
            await eventually(lambda: trades.state.value != "down")
            exchange.control(drop={"count": 1, "types": ["match"]})
            exchange.advance(3)
            await eventually(lambda: trades.gaps > 0)
            exchange.control(clear=True)
            await eventually(lambda: not trades.healing)
            assert any(feed.connected for feed in ingestor.feeds)
