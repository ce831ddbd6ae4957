"""The live tail sees what is published, not what is stored: where the two differ, on a nats-server.

`services.common.stream.nats.live` says why that is safe; here each of its cases is made to happen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.client import Client as NatsClient
from nats.js.api import SubjectTransform
from nats.js.errors import APIError

from services.common.observability.metrics import STAGE_TICK
from services.common.stream import Record
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.records import message_id
from services.gateway.testing import Bench, Client, bench
from tools.embedded import NatsServer

# What is published on these is stored as if on the subjects without it, and nobody sees it live.
UNSEEN = "unseen."


class Place:
    """A gateway with a subscriber of one stream, and a connection that can break the rules."""

    def __init__(self, gateway: Bench, client: Client, rogue: NatsClient) -> None:
        self.gateway = gateway
        self.market = gateway.market()
        self.quiet = gateway.market("ETH-USD")
        self.client = client
        self._rogue = rogue

    async def publish_unseen(self, record: Record) -> None:
        """Store a record of which no core subscription hears, as if its message had been lost."""
        jetstream = self._rogue.jetstream()
        config = (await jetstream.stream_info("MARKET_TICK_0")).config
        if config.subject_transform is None:
            config.subjects = [*(config.subjects or []), f"{UNSEEN}>"]
            config.subject_transform = SubjectTransform(src=f"{UNSEEN}>", dest=">")
            await jetstream.update_stream(config)
        await jetstream.publish(UNSEEN + record.subject, record.payload, headers=_headers(record))

    async def publish_unstored(self, record: Record) -> None:
        """Publish a record that the log refuses, so that only core subscriptions have it."""
        headers = {**_headers(record), "Nats-Expected-Last-Msg-Id": "another"}
        with pytest.raises(APIError, match="wrong last msg"):
            await self._rogue.jetstream().publish(record.subject, record.payload, headers=headers)


@asynccontextmanager
async def place(check_s: float = 3600) -> AsyncIterator[Place]:
    async with (
        NatsServer() as server,
        bench(
            NatsBroker((server.url,), live_check_s=check_s),
            NatsBroker((server.url,)),
            shard_count=1,
        ) as gateway,
    ):
        rogue = await nats.connect(server.url)
        async with gateway.client() as client:
            here = Place(gateway, client, rogue)
            await here.market.ticks(3)
            await here.quiet.ticks(1)
            await client.send(type="subscribe", products=["BTC-USD"])
            await client.of("snapshot")
            yield here
        await rogue.close()


def _headers(record: Record) -> dict[str, str]:
    return {"Nats-Msg-Id": message_id(record.subject, record.position)}


def _gaps(here: Place) -> float:
    labels = {**here.market.key._asdict(), "cause": "chain", "stage": STAGE_TICK}
    return here.gateway.gateway.metrics.registry.get_sample_value("md_seq_gap_total", labels) or 0.0


async def test_what_the_live_tail_missed_is_read_from_the_log() -> None:
    async with place() as here:
        market, client = here.market, here.client
        before = _gaps(here)
        for _ in range(3):
            await here.publish_unseen(market.tick())
            await market.ticks(1)
            await client.reach(market)
        assert _gaps(here) == before + 3
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[3:]
        assert client.types().count("snapshot") == 1


async def test_what_the_live_tail_missed_is_found_also_when_nothing_comes_after_it() -> None:
    async with place(check_s=0.3) as here:
        market, client = here.market, here.client
        await market.ticks(1)
        await client.reach(market)
        await here.publish_unseen(market.tick())
        await client.reach(market)
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[3:]


async def test_a_quiet_streams_last_record_is_found_while_others_go_on() -> None:
    async with place(check_s=0.3) as here:
        quiet, client = here.quiet, here.client
        await client.send(type="subscribe", products=["ETH-USD"])
        await client.of("snapshot")
        await here.publish_unseen(quiet.tick())
        while client.held[str(quiet.key)] != quiet.seq:
            await here.market.ticks(1)
            await client.receive()
        assert client.breaks == []


async def test_what_was_seen_before_it_was_stored_is_sent_once() -> None:
    async with place() as here:
        market, client = here.market, here.client
        # Refused, as after a change of leader, and sent again, as a publisher does.
        records = [market.tick() for _ in range(3)]
        for record in records:
            await here.publish_unstored(record)
        await client.reach(market)
        await market.publish(*records)
        await market.ticks(2)
        await client.reach(market)
        assert client.breaks == []
        assert client.seen[str(market.key)] == market.chain[3:]
        assert client.types().count("snapshot") == 1


async def test_what_was_seen_and_is_never_stored_ends_in_the_state_anew() -> None:
    async with place() as here:
        market, client = here.market, here.client
        held = market.seq
        ghost = market.tick()
        await here.publish_unstored(ghost)
        await client.reach(market)
        # Whoever wrote it lost it together with the end of the raw log, and goes on without.
        market.seq = held
        await market.publish(market.tick(step=20))
        snapshot = await client.of("snapshot")
        assert (snapshot["reason"], snapshot["snapshot"]["seq"]) == ("catch_up", market.seq)
        await market.ticks(2)
        await client.reach(market)
        assert client.breaks == []


async def test_a_client_comes_back_with_a_position_that_is_not_stored_yet() -> None:
    async with place() as here:
        market = here.market
        record = market.tick()
        async with here.gateway.client() as other:
            await here.publish_unstored(record)
            await here.client.reach(market)
            await other.send(type="subscribe", products=["BTC-USD"], from_seq=market.seq)
            await other.of("subscribed")
            await market.publish(record)
            await market.ticks(2)
            await other.reach(market)
            assert other.seen[str(market.key)] == market.chain[4:]
            assert "snapshot" not in other.types()
