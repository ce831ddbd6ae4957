"""The REST client against a scripted venue on a real socket, and against recorded answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from services.common.errors import VenueRefused, VenueUnavailable
from services.common.resilience import CircuitBreaker
from services.common.runtime import serve_http
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.feed.limiter import Limiter
from tools.simulator import SimulatedExchange

Answer = Callable[[Request], Response]


@asynccontextmanager
async def venue(answer: Answer) -> AsyncIterator[tuple[CoinbaseRest, list[str]]]:
    """A client of a venue that answers every request by `answer`; what was asked is noted."""
    asked: list[str] = []

    async def respond(request: Request) -> Response:
        asked.append(f"{request.url.path}?{request.url.query}".rstrip("?"))
        return answer(request)

    app = Starlette(routes=[Route("/{path:path}", respond)])
    async with (
        serve_http(app, "127.0.0.1", 0) as port,
        CoinbaseRest(
            f"http://127.0.0.1:{port}", Limiter(1000.0, 1000), CircuitBreaker(10, 60.0)
        ) as rest,
    ):
        yield rest, asked


def row(number: int, **more: object) -> dict[str, object]:
    side = {"price": "1", "size": "2", "side": "buy"}
    return {"trade_id": number, "time": "2026-07-07T22:58:17Z", **side, **more}


def rows(*ids: int) -> Response:
    return JSONResponse([row(n) for n in ids])


async def test_a_page_is_asked_for_with_both_bounds_and_handed_back_ascending() -> None:
    async with venue(lambda _: rows(13, 12, 11)) as (rest, asked):
        trades = await rest.trades("BTC-USD", 11, 13)
    assert asked == ["/products/BTC-USD/trades?after=14&limit=3&before=10"]
    assert [trade.trade_id for trade in trades] == [11, 12, 13]
    assert json.loads(trades[0].body) == row(11)


async def test_a_page_holds_at_most_a_thousand_trades() -> None:
    async with venue(lambda _: rows()) as (rest, asked):
        await rest.trades("BTC-USD", 1, 5_000)
    assert asked == ["/products/BTC-USD/trades?after=1001&limit=1000&before=0"]


async def test_a_venue_that_ignores_a_bound_is_paged_downwards_and_ids_decide() -> None:
    """Some clients' documents call the bounds mutually exclusive (coinbasepro-python #339)."""
    async with venue(lambda _: rows(20, 19, 13, 12, 11, 10)) as (rest, asked):
        trades = await rest.trades("BTC-USD", 11, 13)
        assert [trade.trade_id for trade in trades] == [11, 12, 13]
        await rest.trades("BTC-USD", 11, 13)
    assert asked[1] == "/products/BTC-USD/trades?after=14&limit=3"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_too_many_requests_and_server_errors_are_tried_again(status: int) -> None:
    answers = iter([PlainTextResponse("later", status), PlainTextResponse("later", status)])
    async with venue(lambda _: next(answers, rows(11))) as (rest, asked):
        assert len(await rest.trades("BTC-USD", 11, 11)) == 1
    assert len(asked) == 3
    assert rest.failures == 2


async def test_a_refusal_is_not_tried_again() -> None:
    """`Not allowed for delisted products` (ccxt #14280, rotki #3490)."""
    refusal = JSONResponse({"message": "Not allowed for delisted products"}, 400)
    async with venue(lambda _: refusal) as (rest, asked):
        with pytest.raises(VenueRefused, match="delisted") as caught:
            await rest.ticker("OLD-USD")
    assert caught.value.status == 400
    assert len(asked) == 1


async def test_a_venue_that_keeps_failing_is_unavailable() -> None:
    async with venue(lambda _: PlainTextResponse("no", 502)) as (rest, _asked):
        with pytest.raises(VenueUnavailable) as caught:
            await rest.book("BTC-USD")
    assert caught.value.status == 502


async def test_an_open_circuit_answers_at_once_without_asking() -> None:
    async with venue(lambda _: PlainTextResponse("no", 502)) as (rest, asked):
        for _ in range(2):
            with pytest.raises(VenueUnavailable):
                await rest.book("BTC-USD")
        calls = len(asked)
        with pytest.raises(VenueUnavailable, match="circuit open"):
            await rest.book("BTC-USD")
    assert len(asked) == calls


async def test_a_page_of_a_proxy_in_place_of_an_answer_is_no_answer() -> None:
    async with venue(lambda _: PlainTextResponse("<html>be right back</html>")) as (rest, _asked):
        with pytest.raises(VenueUnavailable, match="unreadable"):
            await rest.trades("BTC-USD", 1, 2)


async def test_delisted_and_disabled_products_are_told_apart() -> None:
    """They stay in `/products`: 261 of 717 in a recording of 2025."""
    listed = [
        {"id": "BTC-USD", "status": "online"},
        {"id": "OLD-USD", "status": "delisted", "trading_disabled": True},
        {"id": "OFF-USD", "status": "online", "trading_disabled": True},
    ]
    async with venue(lambda _: JSONResponse(listed)) as (rest, _asked):
        known = await rest.tradable()
    assert known["BTC-USD"] is None
    assert known["OLD-USD"] == "status delisted"
    assert known["OFF-USD"] is not None


async def test_recorded_pages_are_read_whole(captures: Path) -> None:
    """Fifteen consecutive calls of 2017: both bounds exclusive, newest first, contiguous."""
    with (captures / "coinbase" / "trades_paging_2017-06-06.jsonl").open() as lines:
        recorded = [json.loads(line) for line in lines]
    bodies = iter(recorded)
    async with venue(lambda _: JSONResponse(next(bodies)["body"])) as (rest, _asked):
        for call in recorded:
            ids = [row["trade_id"] for row in call["body"]]
            trades = await rest.trades("BTC-USD", min(ids), max(ids))
            assert [trade.trade_id for trade in trades] == list(range(min(ids), max(ids) + 1))
            assert all(trade.time > 1_400_000_000_000_000 for trade in trades)


@pytest.mark.parametrize(
    ("name", "timed"),
    [("rest-book-btc.json", True), ("rest_products_BTC-USD_book_level-2.json", False)],
)
async def test_recorded_books_are_read(captures: Path, name: str, timed: bool) -> None:
    """Times of nine digits in 2026, none in 2020."""
    body = (captures / "coinbase" / name).read_bytes()
    async with venue(lambda _: Response(body, media_type="application/json")) as (rest, _asked):
        image = await rest.book("BTC-USD")
    assert image.body == body
    assert image.sequence > 0
    assert bool(image.time) is timed


async def test_the_limit_of_the_venue_is_kept_so_that_it_never_refuses() -> None:
    """26 pairs at start tripped 429 in another client (cryptofeed #293)."""
    async with (
        SimulatedExchange(products=("BTC-USD",), paced=False) as exchange,
        CoinbaseRest(exchange.rest_url) as rest,
    ):
        exchange.advance(1)
        for _ in range(25):
            await rest.ticker("BTC-USD")
        assert (rest.calls, rest.failures) == (25, 0)
