"""Names that anybody may make up cost no store read each, and depths no memory each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.common.observability.health import Health
from services.common.stores.ports import LatestRow
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.common.subjects import StreamKey
from services.gateway.metrics import Metrics
from services.gateway.streams.catalog import Catalog
from services.gateway.streams.feed import FeedSources
from services.gateway.streams.record_reader import RecordReader
from services.gateway.streams.state_store import StateStore
from services.gateway.testing import Rows, bench, small_settings


class Counted(Rows):
    """Counts the streams that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_for = 0

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        self.looked_for += len(keys)
        return await super().get_many(keys)


async def catalog(
    rows: Counted, asked_per_s: float = 0.001, metrics: Metrics | None = None
) -> Catalog:
    broker = MemoryBroker()
    settings = small_settings(shard_count=1, unknown_products_per_sec=asked_per_s)
    await broker.open()
    await broker.ensure(log_specs(settings))
    metrics = Metrics() if metrics is None else metrics
    stores = StateStore(rows, rows, Health("gateway"), metrics)
    return Catalog(FeedSources(broker, settings, stores, RecordReader(metrics), metrics))


async def test_a_name_that_is_not_there_is_asked_for_once() -> None:
    rows = Counted()
    found = await catalog(rows)
    for _ in range(50):
        assert await found.knows("coinbase", ["NO-SUCH"]) == set()
    per_product = rows.looked_for
    await found.knows("coinbase", ["NO-OTHER"])
    assert rows.looked_for == 2 * per_product


async def test_ever_new_names_are_asked_for_at_a_bounded_rate() -> None:
    rows = Counted()
    found = await catalog(rows)
    await found.knows("coinbase", ["FIRST"])
    per_product = rows.looked_for
    for number in range(1000):
        await found.knows("coinbase", [f"P{number}"])
    assert rows.looked_for <= 100 * per_product


async def test_what_became_of_unknown_names_is_counted() -> None:
    metrics = Metrics()
    found = await catalog(Counted(), metrics=metrics)
    await found.knows("coinbase", ["FIRST"])
    await found.knows("coinbase", ["FIRST"])
    await found.knows("coinbase", [f"P{number}" for number in range(150)])
    counted = {
        outcome: metrics.unknown_products.labels(outcome)._value.get()
        for outcome in ("asked", "remembered", "limited")
    }
    # A hundred may come at once; the first took one of them.
    assert counted == {"asked": 100, "remembered": 1, "limited": 51}


async def test_so_many_unknown_names_a_second_as_are_set_are_asked_for() -> None:
    rows = Counted()
    async with bench(MemoryBroker(), rows=rows, unknown_products_per_sec=0.001) as gateway:
        known = gateway.gateway.parts.catalog.knows
        await known("coinbase", [f"P{number}" for number in range(100)])
        looked_for = rows.looked_for
        await known("coinbase", ["ONE-MORE"])
        assert rows.looked_for == looked_for > 0


async def test_what_a_store_that_is_away_did_not_say_is_not_remembered() -> None:
    rows = Counted()
    rows.away = True
    found = await catalog(rows)
    await found.knows("coinbase", ["BTC-USD"])
    assert not found._absent


async def test_snapshots_are_kept_for_a_few_depths_only() -> None:
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market(channel="book")
        bids = [[str(n), "1"] for n in range(100, 0, -1)]
        await market.publish(market.reset({"bids": bids, "asks": []}))
        async with gateway.client() as client:
            await client.send(type="subscribe", product="BTC-USD", channel="book")
            await client.of("snapshot")
            feed = gateway.gateway.parts.streams.feeds[market.key]
            for depth in range(1, 90):
                parts = feed.snapshot_parts("subscribe", depth)
                assert parts is feed.snapshot_parts("subscribe", depth)
            assert len(feed._cache) <= 8
