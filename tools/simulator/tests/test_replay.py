"""Replays of the recorded feed, over real sockets, compared with the file itself."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed

from services.common.domain.book import Book
from tools.simulator import SimulatedExchange
from tools.simulator.replay import BadCapture, ReplayMarket, load_capture
from tools.simulator.testing import FeedClient, Message

PRODUCTS = ["BTC-USD", "ETH-USD"]
CHANNELS = ["level2_batch", "matches", "heartbeat"]


@pytest.fixture
def recording(captures: Path) -> Path:
    return captures / "coinbase" / "live-btc-eth.ndjson"


def lines_of(recording: Path) -> list[str]:
    lines = recording.read_text().splitlines()
    return [line for line in lines if not line.startswith('{"type":"subscriptions"')]


def fold(messages: list[Message], product: str) -> Book:
    book = Book()
    for message in messages:
        if message.get("product_id") == product and message["type"] == "snapshot":
            book.replace(message["bids"], message["asks"])
        elif message.get("product_id") == product and message["type"] == "l2update":
            book.apply(message["changes"])
    return book


async def test_every_recorded_frame_is_sent_byte_for_byte_in_order(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        ack = await client.subscribe(CHANNELS, PRODUCTS)
        assert [each["name"] for each in ack["channels"]] == ["level2_50", "matches", "heartbeat"]
        recorded = lines_of(recording)
        while len(client.frames) < 1 + len(recorded):
            await client.receive()
    assert client.frames[1:] == recorded
    assert len(client.of("match")) == 435
    assert len(client.of("l2update")) == 1898
    assert len(client.of("heartbeat")) == 118


async def test_a_paced_replay_sends_the_same_frames(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=100) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        # In three requests, as some clients do: nothing is missed by the later ones.
        for channel in CHANNELS:
            await client.subscribe([channel], PRODUCTS)
        recorded = lines_of(recording)
        while len(client.frames) < 3 + len(recorded):
            await client.receive()
    assert client.frames[3:] == recorded


async def test_only_what_was_subscribed_is_sent(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["matches"], ["ETH-USD"])
        wanted = [
            line
            for line in lines_of(recording)
            if '"product_id":"ETH-USD"' in line and "match" in line[:20]
        ]
        while len(client.frames) < 1 + len(wanted):
            await client.receive()
    assert client.frames[1:] == wanted


async def test_one_who_comes_late_gets_the_state_so_far_and_then_the_quiet_market(
    recording: Path,
) -> None:
    async with SimulatedExchange(capture=recording, speed=0) as exchange:
        async with FeedClient(exchange.ws_url) as first:
            await first.subscribe(CHANNELS, PRODUCTS)
            await first.until(lambda _: len(first.of("heartbeat")) == 118 + 2)
        async with FeedClient(exchange.ws_url) as late:
            await late.subscribe(CHANNELS, PRODUCTS)
            await late.until(lambda _: len(late.of("heartbeat")) >= 2)
        progress = exchange.report()["replay"]
    for product in PRODUCTS:
        assert fold(late.messages, product) == fold(first.messages, product)
        (last,) = late.of("last_match", product)
        assert last["trade_id"] == first.of("match", product)[-1]["trade_id"]
        beat = late.of("heartbeat", product)[0]
        assert beat["last_trade_id"] == last["trade_id"]
        assert beat["time"] > first.of("heartbeat", product)[0]["time"]
    assert progress["state"] == "finished"


async def test_rest_answers_from_the_state_folded_so_far(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        assert (await rest.get("/_control")).json()["replay"]["state"] == "waiting"
        await client.subscribe(CHANNELS, PRODUCTS)
        # The first heartbeats of the quiet market stand behind everything recorded.
        await client.until(lambda _: len(client.of("heartbeat")) == 120)
        book = (await rest.get("/products/BTC-USD/book?level=2")).json()
        trades = (await rest.get("/products/BTC-USD/trades?limit=1000")).json()
        ticker = (await rest.get("/products/BTC-USD/ticker")).json()
        products = (await rest.get("/products")).json()
        orders = await rest.get("/products/BTC-USD/book?level=3")
    held = Book()
    held.replace(book["bids"], book["asks"])
    assert held == fold(client.messages, "BTC-USD")
    assert len(trades) == 344 + 1
    assert ticker["trade_id"] == trades[0]["trade_id"]
    assert sorted(each["id"] for each in products) == PRODUCTS
    assert orders.status_code == 400


async def test_a_recording_without_tickers_gets_one_for_each_match(recording: Path) -> None:
    async with (
        SimulatedExchange(capture=recording, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["ticker", "matches"], ["ETH-USD"])
        await client.until(lambda _: len(client.of("match")) == 91)
    matches = client.of("last_match") + client.of("match")
    tickers = client.of("ticker")
    sequences = [each["sequence"] for each in matches]
    assert [each["sequence"] for each in tickers] == sequences[: len(tickers)]
    assert "open_24h" not in tickers[0]


async def test_dropped_frames_are_missing_at_the_client_and_known_to_rest(
    recording: Path,
) -> None:
    async with SimulatedExchange(capture=recording, speed=0) as exchange:
        exchange.control(drop={"count": 5, "types": ["match"], "products": ["BTC-USD"]})
        async with FeedClient(exchange.ws_url) as client:
            await client.subscribe(CHANNELS, PRODUCTS)
            await client.until(lambda _: len(client.of("heartbeat")) == 120)
        assert len(client.of("match")) == 430
        lost = {each["trade_id"] for each in exchange.report()["lost"]}
        held = {each.trade_id for each in exchange.state("BTC-USD").tape.all()}
        assert held >= {i for i in lost if i is not None}


async def test_frames_are_paced_by_their_own_times(recording: Path) -> None:
    market = ReplayMarket(load_capture(recording))
    early = market.advance(market.first_us + 1_000_000)
    assert early
    assert not market.finished
    assert market.now_us <= market.first_us + 1_000_000
    market.advance(market.first_us + 120_000_000)
    assert market.finished


def test_a_recording_without_a_message_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"type":"subscriptions","channels":[]}\nnonsense\n')
    with pytest.raises(BadCapture, match="line 1: type subscriptions"):
        load_capture(broken)


def test_lines_that_are_no_messages_of_the_feed_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "odd.ndjson"
    lines = [
        '{"type":"subscribe","product_ids":[]}',
        '{"type":"subscriptions","channels":[]}',
        beat(1),
        '{"type":"error","message":"Failed to subscribe"}',
        "nonsense",
        '{"type":"weather","product_id":"BTC-USD"}',
        '{"type":"match"}',
        beat(2),
        beat(3)[:-4],
    ]
    path.write_text("\n".join(lines))
    capture = load_capture(path)
    assert [frame.raw.decode() for frame in capture.frames] == [beat(1), beat(2)]
    assert capture.left_out == {
        "sent": 1,
        "type subscriptions": 1,
        "type error": 1,
        "bad_json": 1,
        "type weather": 1,
        "no_product": 1,
        "torn": 1,
    }


def beat(second: int) -> str:
    return (
        '{"type":"heartbeat","last_trade_id":7,"product_id":"BTC-USD","sequence":5,'
        f'"time":"2026-07-07T22:59:{second:02d}.000000Z"}}'
    )


def match(number: int, second: float, price: str = "9") -> str:
    return (
        f'{{"type":"match","trade_id":{number},"maker_order_id":"a","taker_order_id":"b",'
        f'"side":"buy","size":"1","price":"{price}","product_id":"BTC-USD",'
        f'"sequence":{number * 10},'
        f'"time":"2026-07-07T22:59:{second:09.6f}Z"}}'
    )


SNAPSHOT = (
    '{"type":"snapshot","product_id":"BTC-USD","bids":[["9","1"]],"asks":[["11","1"]],'
    '"time":"2026-07-07T22:59:01.000000Z"}'
)


def update(size: str, second: float) -> str:
    return (
        '{"type":"l2update","product_id":"BTC-USD",'
        f'"changes":[["buy","8","{size}"]],"time":"2026-07-07T22:59:{second:09.6f}Z"}}'
    )


def recorded(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


async def test_a_recording_without_heartbeats_gets_them_on_whole_seconds(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r", SNAPSHOT, match(7, 1.5), match(8, 2.5), match(9, 6.25))
    async with (
        SimulatedExchange(capture=path, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["heartbeat", "matches"], ["BTC-USD"])
        await client.until(lambda _: len(client.of("match")) == 3)
    beats = [(each["time"][17:19], each["last_trade_id"]) for each in client.of("heartbeat")]
    # What the heartbeat says is true at its second, also before the first trade.
    assert beats == [("02", 7), ("03", 8), ("04", 8), ("05", 8), ("06", 8)]
    market = ReplayMarket(load_capture(recorded(tmp_path / "s", SNAPSHOT, match(7, 3.5))))
    first = next(e for e in market.advance(market.first_us + 1_500_000) if e.type == "heartbeat")
    assert msgspec.json.decode(first.encoded())["last_trade_id"] == 6


def test_odd_frames_are_sent_as_they_were_and_only_our_own_view_skips_them(tmp_path: Path) -> None:
    lines = [
        SNAPSHOT,
        update("0.-10000", 1.5),
        update("2e0", 1.6),
        match(7, 2).replace('"price":"9"', '"price":9'),
        beat(3).replace("2026-07-07T22:59:03.000000Z", "0001-01-01T00:00:00Z"),
        beat(4).replace("2026-07-07", "2126-07-07"),
        match(8, 5),
    ]
    capture = load_capture(recorded(tmp_path / "r", *lines))
    assert capture.left_out == {}
    market = ReplayMarket(capture)
    sent = [e.body.decode() for e in market.take(100) if isinstance(e.body, bytes)]
    assert sent == lines
    state = market.state("BTC-USD")
    assert [price for price, _, _ in state.bids] == ["9", "8"]
    assert [trade.trade_id for trade in state.tape.all()] == [8]
    # Nobody waits a hundred years for one odd time.
    assert market.now_us - market.first_us == 4_000_000


def test_receive_times_pace_a_recording_that_has_them(tmp_path: Path) -> None:
    lines = [f"{1_783_465_200 + number * 2}.5 {match(number, 1)}" for number in range(1, 4)]
    market = ReplayMarket(load_capture(recorded(tmp_path / "r", *lines)))
    matches = [
        len([e for e in market.advance(market.first_us + step) if e.type == "match"])
        for step in (0, 1_999_999, 2_000_000, 4_000_000)
    ]
    assert matches == [1, 0, 1, 1]


async def test_a_recording_that_begins_in_the_middle_has_no_book_until_its_snapshot(
    tmp_path: Path,
) -> None:
    path = recorded(tmp_path / "r", update("1", 1), match(7, 1.5))
    async with (
        SimulatedExchange(capture=path, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        await client.subscribe(["level2_batch", "matches"], ["BTC-USD"])
        await client.until_type("match")
        assert client.of("snapshot") == []
        # An empty book would be taken for the truth.
        assert (await rest.get("/products/BTC-USD/book?level=2")).status_code == 404
        assert (await rest.get("/_control/model/BTC-USD")).json()["book"] is None


async def test_rest_knows_the_truth_that_a_cut_recording_lacks(tmp_path: Path) -> None:
    whole = [SNAPSHOT, match(7, 2), update("3", 2.5), match(8, 3), match(9, 4), beat(5)]
    truth = recorded(tmp_path / "whole", *whole)
    cut = recorded(tmp_path / "cut", match(7, 2), match(9, 4), beat(5))
    async with (
        SimulatedExchange(capture=cut, truth=truth, speed=0) as exchange,
        FeedClient(exchange.ws_url) as client,
        httpx.AsyncClient(base_url=exchange.rest_url) as rest,
    ):
        await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
        await client.until_type("heartbeat")
        assert [each["trade_id"] for each in client.of("match")] == [7, 9]
        rows = (await rest.get("/products/BTC-USD/trades")).json()
        assert [each["trade_id"] for each in rows] == [9, 8, 7]
        book = (await rest.get("/products/BTC-USD/book?level=2")).json()
        assert [row[:2] for row in book["bids"]] == [["9", "1"], ["8", "3"]]


def test_the_truth_is_not_ahead_of_the_replay(tmp_path: Path) -> None:
    truth = recorded(tmp_path / "whole", SNAPSHOT, match(7, 2), match(8, 3), match(9, 4))
    cut = recorded(tmp_path / "cut", match(7, 2), match(9, 4))
    market = ReplayMarket(load_capture(cut), load_capture(truth))
    market.take(1)
    assert [trade.trade_id for trade in market.state("BTC-USD").tape.all()] == [7]
    market.take(1)
    assert [trade.trade_id for trade in market.state("BTC-USD").tape.all()] == [7, 8, 9]


async def test_a_recorded_reconnect_cuts_the_clients_and_waits_for_them(tmp_path: Path) -> None:
    path = recorded(
        tmp_path / "r", SNAPSHOT, match(7, 2), "# reconnected", match(9, 3), match(10, 4)
    )
    async with SimulatedExchange(capture=path, speed=0) as exchange:
        async with FeedClient(exchange.ws_url) as client:
            await client.subscribe(["matches"], ["BTC-USD"])
            with pytest.raises(ConnectionClosed):
                await client.until(lambda message: message.get("trade_id") == 9)
        assert [each["trade_id"] for each in client.of("match")] == [7]
        async with FeedClient(exchange.ws_url) as again:
            await again.subscribe(["matches"], ["BTC-USD"])
            await again.until(lambda message: message.get("trade_id") == 10)
        assert [each["trade_id"] for each in again.of("match")] == [9, 10]
        assert [each["trade_id"] for each in again.of("last_match")] == [7]


async def test_a_replay_that_is_held_begins_when_it_is_told_to(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r", SNAPSHOT, match(7, 2))
    async with (
        SimulatedExchange(capture=path, speed=0, hold=True, settle_s=0) as exchange,
        FeedClient(exchange.ws_url) as client,
    ):
        await client.subscribe(["matches", "heartbeat"], ["BTC-USD"])
        # Who waits hears that the venue lives, at the time at which the recording begins.
        beats = [await client.until_type("heartbeat") for _ in range(2)]
        assert {each["time"] for each in beats} == {"2026-07-07T22:59:01.000000Z"}
        assert {each["last_trade_id"] for each in beats} == {6}
        assert exchange.replay is not None
        assert exchange.replay.position == 0
        exchange.run_on(True)
        await client.until_type("match")


@pytest.mark.parametrize("name", ["level2-2021.ws.gz", "full_2017-06-25.ndjson"])
def test_recordings_of_other_recorders_replay_whole(captures: Path, name: str) -> None:
    capture = load_capture(captures / "coinbase" / name)
    market = ReplayMarket(capture)
    given = [each for each in market.take(100_000) if isinstance(each.body, bytes)]
    assert len(given) == len(capture.frames) > 20
    assert set(capture.left_out) <= {"sent", "type subscriptions"}
    if name.startswith("level2"):
        assert sum(each.type == "l2update" for each in given) == 9_719
        assert all(market.has_book(each.id) for each in market.products)


@pytest.mark.parametrize("name", ["rest-book-btc.json", "trades_paging_2017-06-06.jsonl"])
def test_what_is_no_recording_is_refused_in_one_line(captures: Path, name: str) -> None:
    with pytest.raises(BadCapture, match="holds no message of the feed") as refused:
        load_capture(captures / "coinbase" / name)
    assert "\n" not in str(refused.value)


def test_a_recording_of_the_full_channel_replays_too(captures: Path) -> None:
    market = ReplayMarket(load_capture(captures / "coinbase" / "full_2017-06-25.ndjson"))
    out = market.take(1000)
    sequences = [
        msgspec.json.decode(each.encoded())["sequence"]
        for each in out
        if "full" in each.channels and each.product == "BTC-USD"
    ]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


async def test_a_recording_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with SimulatedExchange(capture=tmp_path / "absent.ndjson"):
            pass
