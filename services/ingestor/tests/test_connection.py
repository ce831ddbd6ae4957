"""Staying connected: every way a connection can end, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from services.common.errors import BrokerFailed
from services.common.stream import Record
from services.common.stream.memory.broker import MemoryBroker
from services.common.subjects import INVALID_SUBJECT, StreamKey, is_pulse, raw_subject
from services.common.testing.broken import PartsBroker, break_part, refuse_once
from services.common.wire import Parked, PulseBody, decode_raw
from services.ingestor.app import Ingestor
from services.ingestor.streams import BookStream
from services.ingestor.testing import eventually, raw_records, running
from tools.embedded import free_port
from tools.simulator import Credentials, SimulatedExchange

PRODUCT = "BTC-USD"


@pytest.fixture
async def exchange() -> AsyncIterator[SimulatedExchange]:
    async with SimulatedExchange(products=(PRODUCT, "ETH-USD"), rate=100) as exchange:
        yield exchange


def live(ingestor: Ingestor) -> Callable[[], bool]:
    """Whether all streams are live, and have been so since the newest connection."""

    def check() -> bool:
        return bool(ingestor.feeds) and all(
            feed.connected and stream.state.value == "live"
            for feed in ingestor.feeds
            for streams in feed.products.values()
            for stream in streams.all
        )

    return check


async def check_trades(broker: MemoryBroker) -> None:
    frames = [
        record.seq
        for record in await raw_records(broker, "trades", PRODUCT)
        if record.kind == "frame"
    ]
    assert frames == list(range(frames[0], frames[-1] + 1))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"disconnect": {}}, "reset"),
        ({"disconnect": {"code": 1001, "reason": "going away"}}, "closed_1001"),
        ({"disconnect": {"code": 1000, "reason": "deprecated hostname"}}, "closed_1000"),
        ({"refuse_s": 3600.0, "disconnect": {}}, "handshake_refused"),
        ({"stall_s": 3600.0}, "silent"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_the_feed_flows_again_after_every_kind_of_loss(
    broker: MemoryBroker, exchange: SimulatedExchange, fault: dict[str, Any], reason: str
) -> None:
    async with running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        PRODUCT,
        # Else a machine that stalls for a moment loses connections of its own accord.
        **({"heartbeat_dead_ms": 1_500} if reason == "silent" else {}),
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
        (feed,) = ingestor.feeds
        exchange.control(**fault)
        await eventually(lambda: feed.last_reason == reason, f"a loss by {reason}")
        # Only now: however late a busy machine comes to it, it has met the fault.
        exchange.control(clear=True)
        messages = feed.messages
        await eventually(live(ingestor), "streams live again")
        await eventually(lambda: feed.messages > messages, "messages again")
        await eventually(lambda: _newest_trade(ingestor) > 0, "a trade")
    await check_trades(broker)
    states = [
        bytes(record.body).decode().split('"')[3]
        for record in await raw_records(broker, "trades", PRODUCT)
        if record.kind == "status"
    ]
    assert states[0] == "live"
    assert states[-1] == "down", "the end of the ingestor"
    assert states.count("down") >= 2


def circuit(ingestor: Ingestor, target: str) -> float | None:
    return ingestor.registry.get_sample_value("md_circuit_state", {"target": target})


async def test_a_venue_that_stays_away_opens_the_circuit_and_a_probe_closes_it(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        PRODUCT,
        ws_breaker_failures=2,
        ws_breaker_recovery_ms=400,
        reconnect_max_ms=300,
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
        assert circuit(ingestor, "venue") == 0
        exchange.control(refuse_s=3600.0, disconnect={})
        await eventually(lambda: circuit(ingestor, "venue") == 2, "open")
        assert ingestor.feeds[0].report()["circuit"] == "open"
        exchange.control(clear=True)
        await eventually(lambda: circuit(ingestor, "venue") == 0, "closed by a probe")
        await eventually(live(ingestor), "streams live again")
    await check_trades(broker)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("ws://127.0.0.1:99999/", "connect_failed"),
        (f"ws://{'a' * 70}.example/", "connect_failed"),
        ("ws://no-such-host.invalid/", "network"),
    ],
)
async def test_whatever_an_attempt_raises_costs_that_attempt(
    broker: MemoryBroker, exchange: SimulatedExchange, endpoint: str, reason: str
) -> None:
    async with running(
        broker, endpoint, exchange.rest_url, PRODUCT, coinbase_ws_fallback=exchange.ws_url
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
        assert ingestor.feeds[0].endpoint == exchange.ws_url
        assert ingestor.feeds[0].last_reason == reason


async def test_the_fallback_is_used_when_the_primary_does_not_answer(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker,
        f"ws://127.0.0.1:{free_port()}/",
        exchange.rest_url,
        PRODUCT,
        coinbase_ws_fallback=exchange.ws_url,
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
        assert ingestor.feeds[0].endpoint == exchange.ws_url
        assert ingestor.feeds[0].last_reason == "connect_refused"


async def test_a_channel_that_needs_a_signature_is_served_with_the_key(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    """level2 needs authentication since August 2023 (cryptofeed #990)."""
    credentials = exchange.config.credentials
    assert credentials is not None
    async with running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        PRODUCT,
        coinbase_channels=("matches", "level2"),
        coinbase_api_key=credentials.key,
        coinbase_api_secret=credentials.secret,
        coinbase_api_passphrase=credentials.passphrase,
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
    assert any(record.kind == "resync" for record in await raw_records(broker, "book", PRODUCT))


async def test_a_refused_key_is_tried_again_only_after_the_longest_pause(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    wrong = Credentials(key="other", secret="c2VjcmV0", passphrase="other")
    async with running(
        broker,
        exchange.ws_url,
        exchange.rest_url,
        PRODUCT,
        coinbase_channels=("matches", "level2"),
        coinbase_api_key=wrong.key,
        coinbase_api_secret=wrong.secret,
        coinbase_api_passphrase=wrong.passphrase,
        heartbeat_dead_ms=1_000,
    ) as ingestor:
        await eventually(
            lambda: bool(ingestor.feeds) and ingestor.feeds[0].state.value == "failed", "failed"
        )


@pytest.mark.parametrize("channel", ["ticker", "matches", "level2_batch"])
async def test_each_channel_can_be_served_alone(
    broker: MemoryBroker, exchange: SimulatedExchange, channel: str
) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, PRODUCT, coinbase_channels=(channel,)
    ) as ingestor:
        await eventually(live(ingestor), "the stream live")
        (stream,) = ingestor.feeds[0].products[PRODUCT].all
        await eventually(lambda: stream.messages > 10, "messages")


async def test_products_are_changed_without_a_reconnect_of_the_others(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor:
        await eventually(live(ingestor), "streams live")
        (feed,) = ingestor.feeds
        changed = await ingestor.set_products([PRODUCT, "ETH-USD", "NO-SUCH"])
        assert changed == {"added": ["ETH-USD"], "removed": [], "left_out": ["NO-SUCH"]}
        await eventually(live(ingestor), "both live")
        changed = await ingestor.set_products(["ETH-USD"])
        assert changed == {"added": [], "removed": [PRODUCT], "left_out": []}
        messages = feed.messages
        await eventually(lambda: feed.messages > messages + 50, "messages go on")
        assert set(feed.products) == {"ETH-USD"}
        assert feed.reconnects == 0
    last = (await raw_records(broker, "trades", PRODUCT))[-1]
    assert b"product removed" in bytes(last.body)


async def test_more_products_than_a_connection_takes_open_another_one(
    broker: MemoryBroker, exchange: SimulatedExchange
) -> None:
    async with running(
        broker, exchange.ws_url, exchange.rest_url, PRODUCT, products_per_connection=1
    ) as ingestor:
        await eventually(live(ingestor), "streams live")
        await ingestor.set_products([PRODUCT, "ETH-USD"])
        await eventually(lambda: len(ingestor.feeds) == 2 and live(ingestor)(), "two feeds")
        await ingestor.set_products(["ETH-USD"])
        assert [set(feed.products) for feed in ingestor.feeds] == [{"ETH-USD"}]


async def test_pitfall_15_a_snapshot_of_more_than_a_mebibyte_is_received(
    broker: MemoryBroker,
) -> None:
    """The client library's default would close the connection with 1009."""
    async with (
        SimulatedExchange(products=(PRODUCT,), depths={PRODUCT: 24_000}, paced=False) as exchange,
        running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor,
    ):
        await eventually(live(ingestor), "streams live")
        assert ingestor.feeds[0].reconnects == 0
    (resync,) = [
        record for record in await raw_records(broker, "book", PRODUCT) if record.kind == "resync"
    ]
    assert len(bytes(resync.body)) > 2**20


async def test_a_publisher_that_broke_ends_the_ingestor_and_the_next_one_loses_no_trade(
    exchange: SimulatedExchange,
) -> None:
    urls = exchange.ws_url, exchange.rest_url
    async with PartsBroker() as broker:
        with pytest.raises(ExceptionGroup) as ended:
            await _run_into_a_broken_publisher(broker, *urls)
        assert ended.group_contains(BrokerFailed)
        async with running(broker, *urls, PRODUCT) as ingestor:
            await eventually(live(ingestor), "streams live again")
            await eventually(lambda: _newest_trade(ingestor) > 0, "a trade")
            newest = _newest_trade(ingestor)
            await eventually(lambda: _newest_trade(ingestor) > newest, "another")
        await check_trades(broker)


def _newest_trade(ingestor: Ingestor) -> int:
    trades = ingestor.feeds[0].products[PRODUCT].trades
    return trades.writer.seq or 0 if trades is not None else 0


async def _run_into_a_broken_publisher(broker: PartsBroker, ws_url: str, rest_url: str) -> None:
    async with running(broker, ws_url, rest_url, PRODUCT) as ingestor:
        await eventually(live(ingestor), "streams live")
        await eventually(lambda: _newest_trade(ingestor) > 0, "a trade")
        break_part(broker.publishers[0])
        await asyncio.Event().wait()


async def test_it_says_which_products_it_hears_of_as_long_as_it_runs(
    exchange: SimulatedExchange, broker: MemoryBroker
) -> None:
    urls = exchange.ws_url, exchange.rest_url
    async with running(broker, *urls, PRODUCT, pulse_period_ms=100) as ingestor:
        await eventually(live(ingestor), "streams live")

        async def said_again() -> bool:
            pulses = [
                decode_raw(message.payload)
                for subject in await broker.subjects("raw")
                if is_pulse(subject)
                for message in (await broker.read(subject)).messages
            ]
            named = [msgspec.json.decode(pulse.body, type=PulseBody).products for pulse in pulses]
            return named.count([PRODUCT]) >= 3

        await eventually(said_again, "pulses")


async def test_what_the_log_refuses_once_it_was_taken_is_parked_and_the_book_gets_a_new_base(
    exchange: SimulatedExchange,
) -> None:
    async with (
        PartsBroker() as broker,
        running(broker, exchange.ws_url, exchange.rest_url, PRODUCT) as ingestor,
    ):
        await eventually(live(ingestor), "streams live")
        book = ingestor.feeds[0].products[PRODUCT].book
        assert isinstance(book, BookStream)
        before = book.resyncs
        for _ in range(100):
            if book.resyncs > before:
                break
            refuse_once(broker.publishers[0], 10)
            wanted = book.messages + 3
            await eventually(lambda: book.messages > wanted, "updates")  # noqa: B023 - awaited here
        assert book.resyncs > before
        await eventually(live(ingestor), "streams live again")
        await ingestor.flushed()
        await ingestor._dead_letters.flush()
        page = await broker.read(INVALID_SUBJECT)
        parked = [msgspec.json.decode(m.payload, type=Parked) for m in page.messages]
        assert {letter.reason for letter in parked} == {"record_too_large"}
        # Not only what was written about it meanwhile, which is too large then as well.
        assert any(decode_raw(letter.original.encode()).kind == "frame" for letter in parked)


async def test_a_stream_whose_newest_record_cannot_be_read_is_gone_on_with(
    exchange: SimulatedExchange, broker: MemoryBroker
) -> None:
    urls = exchange.ws_url, exchange.rest_url
    async with running(broker, *urls, PRODUCT) as ingestor:
        await eventually(live(ingestor), "streams live")
        await eventually(lambda: _newest_trade(ingestor) > 0, "a trade")
    for channel in ("trades", "book", "ticker"):
        subject = raw_subject(StreamKey("coinbase", channel, PRODUCT))
        newest = await broker.last(subject)
        assert newest is not None
        position = newest.position._replace(sub=newest.position.sub + 1)
        await broker.publish(Record(subject, b"\xff{", position))
    async with running(broker, *urls, PRODUCT) as ingestor:
        await eventually(live(ingestor), "streams live again")
        newest_trade = _newest_trade(ingestor)
        await eventually(lambda: _newest_trade(ingestor) > newest_trade, "another trade")
