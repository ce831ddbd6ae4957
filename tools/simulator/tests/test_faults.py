"""Faults over real sockets, on a market that only moves when told to."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import httpx
import msgspec
import pytest
from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tools.simulator import Limits, SimulatedExchange
from tools.simulator.faults.feed_faults import FaultRequest, MessageFaults
from tools.simulator.faults.oddities import OddKind
from tools.simulator.protocol.messages import Heartbeat, Outgoing
from tools.simulator.testing import FeedClient

README = Path(__file__).parents[1] / "README.md"
PRODUCTS = ("BTC-USD", "ETH-USD")


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(
        products=PRODUCTS,
        seed=9,
        rate=200,
        depth=40,
        paced=False,
        start_us=1_750_000_000_000_000,
        limits=Limits(rest_rate=0, rest_cache=False),
    ) as running:
        yield running


@pytest.fixture
async def client(exchange: SimulatedExchange) -> AsyncIterator[FeedClient]:
    async with FeedClient(exchange.ws_url) as connected:
        await connected.subscribe(["matches", "heartbeat"], PRODUCTS)
        yield connected


@pytest.fixture
async def rest(exchange: SimulatedExchange) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=exchange.rest_url) as connected:
        yield connected


def trade_ids(client: FeedClient, product: str) -> list[int]:
    return [each["trade_id"] for each in client.of("match", product)]


async def test_exactly_the_next_n_are_dropped_while_the_market_moves_on(
    exchange: SimulatedExchange, client: FeedClient, rest: httpx.AsyncClient
) -> None:
    drop = {"drop": {"count": 3, "types": ["match"], "products": ["BTC-USD"]}}
    assert (await rest.post("/_control/faults", json=drop)).json()["drop"]["left"] == 3
    exchange.advance(3)
    await client.until(lambda _: len(client.of("heartbeat")) == 6)

    before = next(each["trade_id"] for each in client.of("last_match", "BTC-USD"))
    truth = [i.trade_id for i in exchange.state("BTC-USD").tape.all() if i.trade_id > before]
    assert trade_ids(client, "BTC-USD") == truth[3:]
    assert client.of("heartbeat", "BTC-USD")[-1]["last_trade_id"] == truth[-1]
    rows = (await rest.get("/products/BTC-USD/trades")).json()
    assert {each["trade_id"] for each in rows} >= set(truth[:3])

    report = (await rest.get("/_control")).json()
    assert [each["trade_id"] for each in report["lost"]] == truth[:3]
    counts = report["products"]["BTC-USD"]["messages"]["match"]
    assert counts == {"produced": len(truth), "sent": len(truth) - 3, "dropped": 3}
    assert report["faults"]["drop"]["left"] == 0


async def test_only_messages_somebody_wants_use_up_a_count(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(drop={"count": 2, "types": ["l2update"]})
    exchange.advance(1)
    await client.until_type("heartbeat")
    assert exchange.report()["faults"]["drop"]["left"] == 2


async def test_a_share_of_messages_is_dropped(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(drop={"probability": 0.5, "types": ["match"]})
    exchange.advance(5)
    await client.until(lambda _: len(client.of("heartbeat")) == 10)
    counts = exchange.report()["messages"]["match"]
    assert 0.3 < counts["dropped"] / counts["produced"] < 0.7
    assert counts["dropped"] + counts["sent"] == counts["produced"]


async def test_duplicates_come_right_behind_the_original(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(duplicate={"count": 2, "types": ["match"], "products": ["ETH-USD"]})
    exchange.advance(2)
    await client.until(lambda _: len(client.of("heartbeat")) == 4)
    ids = trade_ids(client, "ETH-USD")
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(ids) == len(set(ids)) + 2


async def test_a_reordered_message_comes_later_and_is_not_lost(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(reorder={"count": 1, "types": ["match"], "products": ["BTC-USD"], "by": 2})
    exchange.advance(3)
    await client.until(lambda _: len(client.of("heartbeat")) == 6)
    of_product = [
        each["type"] if each["type"] == "heartbeat" else each["trade_id"]
        for each in client.messages
        if each["type"] in ("match", "heartbeat") and each["product_id"] == "BTC-USD"
    ]
    ids = [each for each in of_product if each != "heartbeat"]
    assert ids != sorted(ids)
    assert of_product.index(min(ids)) == 2
    assert sorted(ids) == list(range(min(ids), min(ids) + len(ids)))


@pytest.mark.parametrize("code", [None, 1001])
async def test_all_clients_are_disconnected_and_may_come_back(
    exchange: SimulatedExchange, client: FeedClient, code: int | None
) -> None:
    exchange.control(disconnect={"code": code})
    with pytest.raises(ConnectionClosed) as closed:
        await client.until_type("never sent")
    received = closed.value.rcvd
    assert (received.code if received else None) == code
    assert exchange.report()["disconnected"] == 1
    async with FeedClient(exchange.ws_url) as again:
        assert (await again.subscribe(["matches"], PRODUCTS))["type"] == "subscriptions"


async def test_clients_are_disconnected_again_and_again(exchange: SimulatedExchange) -> None:
    exchange.control(disconnect={"every_s": 0.05})
    for _ in range(2):
        async with FeedClient(exchange.ws_url) as client:
            with pytest.raises(ConnectionClosed):
                await client.receive()
    assert exchange.control(clear=True) == {}


async def test_new_connections_are_refused_for_a_while(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    exchange.control(refuse_s=60)
    with pytest.raises(InvalidStatus) as refused:
        async with FeedClient(exchange.ws_url):
            pass
    assert refused.value.response.status_code == 503
    exchange.advance(1)
    await client.until_type("heartbeat")
    exchange.control(clear=True)
    async with FeedClient(exchange.ws_url) as later:
        assert await later.subscribe(["matches"], PRODUCTS)


async def test_a_stalled_socket_is_open_and_silent_and_what_it_missed_is_lost(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.until(lambda _: len(client.of("last_match")) == 2)
    exchange.control(stall_s=60)
    exchange.advance(2)
    pong = await client.socket.ping()
    await pong
    exchange.control(clear=True)
    exchange.advance(1)
    first = await client.receive()
    assert first["type"] in ("match", "heartbeat")
    missed = exchange.report()["messages"]["match"]["stalled"]
    assert missed > 0
    await client.until(lambda _: len(client.of("heartbeat")) == 2)
    last = client.of("last_match", "BTC-USD")[0]["trade_id"]
    assert trade_ids(client, "BTC-USD")[0] > last + 1


async def test_a_stall_ends_by_itself(exchange: SimulatedExchange, client: FeedClient) -> None:
    assert exchange.control(stall_s=0.01) == {"stall_s": pytest.approx(0.01, abs=0.01)}
    while exchange.report()["faults"]:
        pong = await client.socket.ping()
        await pong
    exchange.advance(1)
    await client.until_type("heartbeat")


@pytest.mark.parametrize("kind", ["json", "unknown_type", "binary"])
async def test_garbage_arrives_between_good_messages(
    exchange: SimulatedExchange, client: FeedClient, kind: str
) -> None:
    await client.until(lambda _: len(client.of("last_match")) == 2)
    exchange.control(garbage={"kind": kind, "count": 2})
    frames = [await client.socket.recv() for _ in range(2)]
    match kind:
        case "json":
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(frames[0])
        case "unknown_type":
            assert msgspec.json.decode(frames[0])["type"] == "weather"
        case "binary":
            assert isinstance(frames[0], bytes)
    exchange.advance(1)
    await client.until_type("heartbeat")


async def test_text_that_is_not_utf8_makes_a_strict_client_close(
    exchange: SimulatedExchange, client: FeedClient
) -> None:
    await client.until(lambda _: len(client.of("last_match")) == 2)
    exchange.control(garbage={"kind": "utf8"})
    with pytest.raises((ConnectionClosed, UnicodeDecodeError)):
        await client.until_type("never sent")


async def test_rest_fails_as_often_as_asked_and_only_where_asked(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    exchange.control(rest={"status": 503, "count": 2, "paths": ["/trades"], "latency_ms": 1})
    url = "/products/BTC-USD/trades"
    assert (await rest.get("/time")).status_code == 200
    assert [(await rest.get(url)).status_code for _ in range(3)] == [503, 503, 200]


async def test_stale_rest_answers_as_of_the_moment_it_was_asked_for(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    urls = [
        "/products/BTC-USD/book?level=2",
        "/products/BTC-USD/book?level=3",
        "/products/BTC-USD/ticker",
        "/products/BTC-USD/trades",
    ]
    before = [(await rest.get(url)).json() for url in urls]
    exchange.control(stale_rest_s=60)
    exchange.advance(3)
    assert [(await rest.get(url)).json() for url in urls] == before
    exchange.control(clear=True)
    fresh = [(await rest.get(url)).json() for url in urls]
    assert all(new != old for new, old in zip(fresh, before, strict=True))


async def test_the_control_endpoint_tells_the_truth_about_a_product(
    exchange: SimulatedExchange, client: FeedClient, rest: httpx.AsyncClient
) -> None:
    exchange.control(drop={"probability": 1.0})
    exchange.advance(2)
    truth = (await rest.get("/_control/model/BTC-USD")).json()
    state = exchange.state("BTC-USD")
    assert truth["sequence"] == state.sequence
    assert [each["trade_id"] for each in truth["trades"]] == [
        each.trade_id for each in state.tape.all()
    ]
    assert truth["book"]["bids"] == [list(row[:2]) for row in state.bids]
    assert (await rest.get("/_control/model/NO-PE")).status_code == 404


def test_the_readme_names_every_fault_and_every_oddity_and_no_other() -> None:
    def named(header: str) -> set[str]:
        rows = README.read_text().partition(f"{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
        return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert named("| name | value | does |") == FaultRequest.model_fields.keys() - {"clear"}
    assert named("| kind of `odd` | does |") == set(get_args(OddKind))


async def test_a_misspelt_fault_is_refused(
    exchange: SimulatedExchange, rest: httpx.AsyncClient
) -> None:
    answer = await rest.post("/_control/faults", json={"drop": {"kount": 1}})
    assert answer.status_code == 400
    assert "drop.kount" in answer.json()["message"]
    with pytest.raises(ValidationError):
        exchange.control(dropp={"count": 1})


def test_the_same_seed_hits_the_same_messages() -> None:
    def fates() -> list[str]:
        faults = MessageFaults(seed=4)
        faults.set(FaultRequest.model_validate({"drop": {"probability": 0.3}}))
        beats = [Heartbeat(0, "BTC-USD", number, "") for number in range(100)]
        return [
            faults.pass_on(Outgoing(("heartbeat",), "BTC-USD", "heartbeat", beat)).fate
            for beat in beats
        ]

    assert fates() == fates()
    assert {"sent", "dropped"} == set(fates())
