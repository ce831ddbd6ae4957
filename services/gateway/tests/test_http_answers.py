"""What those who ask over HTTP are told: epochs and positions as over WebSocket, gaps of all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.common.stream import Position, Record
from services.common.stream.memory.broker import MemoryBroker
from services.gateway.history.gaps import MOST_GAPS, GapHistory
from services.gateway.metrics import Metrics
from services.gateway.streams.record_reader import RecordReader
from services.gateway.testing import EPOCH, Bench, Market, bench


@pytest.fixture
async def gateway() -> AsyncIterator[Bench]:
    async with bench(MemoryBroker()) as running:
        yield running


@pytest.fixture
async def http(gateway: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as client:
        yield client


class Poller:
    """Goes on with what the answer before said, as a client would."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.seen: list[int] = []
        self._http = http
        self._next: dict[str, int] = {"from_seq": 0}

    async def poll(self, **more: int) -> httpx.Response:
        answer = await self._http.get("/v1/ticks/BTC-USD", params={**self._next, **more})
        if answer.status_code == 200:
            page = answer.json()
            self.seen += [tick["seq"] for tick in page["ticks"]]
            self._next = {"from_seq": page["next_from_seq"]}
            if page["epoch"] is not None:
                self._next["epoch"] = page["epoch"]
        return answer


async def anew(gateway: Bench, market: Market, ticks: int) -> Market:
    """The venue begins to number anew, and has sent so much by now."""
    again = gateway.market(epoch=market.epoch + 1)
    await again.ticks(ticks)
    return again


async def test_an_answer_names_the_epoch_it_is_of_and_polling_goes_on_in_it(
    gateway: Bench, http: httpx.AsyncClient
) -> None:
    market, poller = gateway.market(), Poller(http)
    await market.ticks(5)
    answer = (await poller.poll(limit=3)).json()
    assert (answer["epoch"], answer["at_head"]) == (EPOCH, False)
    assert (await poller.poll()).json()["at_head"]
    empty = (await poller.poll()).json()
    assert (empty["epoch"], empty["ticks"], empty["at_head"]) == (EPOCH, [], True)
    await market.ticks(2)
    await poller.poll()
    assert poller.seen == market.chain


@pytest.mark.parametrize("ticks", [2, 40], ids=["before it was passed", "after it was passed"])
async def test_who_polls_is_told_that_the_numbering_began_anew(
    gateway: Bench, http: httpx.AsyncClient, ticks: int
) -> None:
    market, poller = gateway.market(), Poller(http)
    await market.ticks(10)
    await poller.poll()
    again = await anew(gateway, market, ticks)
    answer = await poller.poll()
    assert answer.status_code == 409
    problem = answer.json()
    assert (problem["code"], problem["name"], problem["retry"]) == (
        4000,
        "epoch_changed",
        "snapshot",
    )
    assert (problem["epoch"], problem["head"]) == (again.epoch, again.seq)
    # From the beginning, one numbering is not mixed with the other.
    page = (await http.get("/v1/ticks/BTC-USD")).json()
    assert page["epoch"] == again.epoch
    assert [tick["seq"] for tick in page["ticks"]] == again.chain


async def test_a_position_above_the_head_is_refused_with_or_without_an_epoch(
    gateway: Bench, http: httpx.AsyncClient
) -> None:
    market = gateway.market()
    await market.ticks(3)
    assert market.seq is not None
    for more in ({}, {"epoch": EPOCH}):
        params = {"from_seq": market.seq + 1, **more}
        answer = await http.get("/v1/ticks/BTC-USD", params=params)
        assert answer.status_code == 409
        assert (answer.json()["code"], answer.json()["head"]) == (4002, market.seq)
    again = await anew(gateway, market, 1)
    answer = await http.get("/v1/ticks/BTC-USD", params={"from_seq": market.seq})
    assert (answer.json()["code"], answer.json()["head"]) == (4002, again.seq)


async def test_a_position_that_expired_is_refused_by_its_code() -> None:
    broker = MemoryBroker()
    async with bench(broker) as gateway, httpx.AsyncClient(base_url=gateway.http) as http:
        market = gateway.market()
        records = [market.tick() for _ in range(5)]
        await market.publish(*records[2:])
        answer = await http.get("/v1/ticks/BTC-USD", params={"from_seq": 107})
        assert answer.status_code == 410
        problem = answer.json()
        assert (problem["code"], problem["oldest_seq"]) == (4001, records[2].position.seq)


async def test_a_stream_without_records_has_no_epoch_and_nothing_after_any_position(
    gateway: Bench, http: httpx.AsyncClient
) -> None:
    await gateway.market(channel="trades").ticks(1)
    answer = (await http.get("/v1/ticks/BTC-USD")).json()
    assert (answer["epoch"], answer["ticks"], answer["at_head"]) == (None, [], True)
    answer = (await http.get("/v1/ticks/BTC-USD?from_seq=7")).json()
    assert (answer["code"], answer["head"]) == (4002, None)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/products?venu=coinbase",
        "/v1/streams?x=",
        "/v1/snapshot/BTC-USD?chanel=book",
        "/v1/ticks/BTC-USD?fromseq=100",
        "/v1/ticks/BTC-USD?from_time=5",
        "/v1/ticks/BTC-USD?cursor=a&format=csv",
        "/v1/gaps?products=BTC-USD",
        "/v1/status?verbose=1",
    ],
)
async def test_a_parameter_that_is_not_known_is_refused_and_named(
    gateway: Bench, http: httpx.AsyncClient, path: str
) -> None:
    await gateway.market().ticks(1)
    answer = await http.get(path)
    assert answer.status_code == 422
    named = {problem["loc"][1] for problem in answer.json()["detail"]}
    assert named == set(httpx.URL(path).params)


async def reset(market: Market) -> None:
    await market.publish(market.tick(), market.reset({"volume_30d": "1"}))


def gaps_of(answer: httpx.Response) -> list[tuple[str, int]]:
    return [(gap["product"], gap["seq"]) for gap in answer.json()["gaps"]]


async def test_gaps_are_those_of_all_products_when_none_is_named(
    gateway: Bench, http: httpx.AsyncClient
) -> None:
    markets = [gateway.market(product) for product in ("ETH-USD", "BTC-USD")]
    for market in markets:
        market.clock = lambda: 1000
        await reset(market)
    answer = await http.get("/v1/gaps")
    assert (answer.json()["product"], answer.json()["complete"]) == (None, True)
    expected = {(market.key.product, market.seq) for market in markets}
    assert set(gaps_of(answer)) == expected
    assert (await http.get("/v1/gaps?product=NO-SUCH")).status_code == 404
    assert gaps_of(await http.get("/v1/gaps?from=1000&to=1001")) == gaps_of(answer)
    assert gaps_of(await http.get("/v1/gaps?from=1001")) == []
    assert gaps_of(await http.get("/v1/gaps?to=1000")) == []


async def test_gaps_of_all_are_those_that_the_key_covers() -> None:
    async with (
        bench(MemoryBroker(), auth_api_keys="one;products=BTC-*") as gateway,
        httpx.AsyncClient(base_url=gateway.http, headers={"X-API-Key": "one"}) as http,
    ):
        for product in ("BTC-USD", "ETH-USD"):
            await reset(gateway.market(product))
        assert {product for product, _ in gaps_of(await http.get("/v1/gaps"))} == {"BTC-USD"}


class Looking:
    """Gaps of one stream in a log, with a budget and no pause between two looks."""

    def __init__(self, gateway: Bench, budget: int) -> None:
        self.market = gateway.market()
        broker, shards = gateway.gateway.broker, gateway.gateway.settings.shard_count
        self.gaps = GapHistory(broker, RecordReader(Metrics()), shards, budget=budget, kept_s=0)

    async def look(self) -> tuple[list[int], bool]:
        found, complete = await self.gaps.of([self.market.key])
        return [gap["seq"] for gap in found], complete


async def test_a_long_log_is_looked_through_in_several_requests(gateway: Bench) -> None:
    looking = Looking(gateway, budget=10)
    market = looking.market
    expected: list[Any] = []
    for _ in range(6):
        await market.ticks(4)
        await reset(market)
        expected.append(market.seq)
    looks = [await looking.look() for _ in range(6)]
    assert [complete for _, complete in looks][-1]
    assert not looks[0][1]
    assert looks[-1][0] == expected
    await reset(market)
    assert await looking.look() == ([*expected, market.seq], True)


async def test_no_gap_is_passed_over_where_other_records_stand_at_a_known_place_by_now(
    gateway: Bench,
) -> None:
    """A log that lost its end may get it back in another order."""
    looking = Looking(gateway, budget=100_000)
    market = looking.market
    await market.ticks(4)
    assert await looking.look() == ([], True)
    await market.ticks(3)
    await reset(market)
    gap = market.seq
    assert gap is not None
    skips = await gateway.gateway.broker.seek(market.subject, Position(market.epoch, gap))
    looking.gaps._looked[market.key].cursor = skips
    await market.ticks(3)
    assert await looking.look() == ([gap], True)


async def test_only_so_many_gaps_of_a_stream_are_kept_and_that_is_told(gateway: Bench) -> None:
    looking = Looking(gateway, budget=100_000)
    for _ in range(MOST_GAPS + 3):
        await looking.market.publish(looking.market.reset({}))
    found, complete = await looking.look()
    assert (len(found), complete) == (MOST_GAPS, False)
    assert found[-1] == looking.market.seq


async def test_what_stands_in_the_log_and_cannot_be_read_hides_no_gap(gateway: Bench) -> None:
    looking = Looking(gateway, budget=100)
    market = looking.market
    await reset(market)
    bad = b'{"type":"reset","nonsense":1}'
    position = Position(market.epoch, (market.seq or 0) + 1)
    await gateway.publisher.send(Record(market.subject, bad, position))
    market.seq = position.seq
    await reset(market)
    found, complete = await looking.look()
    assert (len(found), complete) == (2, True)
