"""Clients that do anything at any moment: what they are given is a chain, whatever they do."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, Client, Market, bench


async def behave(gateway: Bench, markets: list[Market], seed: int) -> Client:
    """Send commands at random while reading now and then, and end with every stream subscribed."""
    choose = random.Random(seed)
    async with gateway.client(max_queue=1, close_timeout=0.2) as client:
        for _ in range(40):
            market = choose.choice(markets)
            product = {"product": market.key.product, "channel": market.key.channel}
            match choose.randrange(8):
                case 0 | 1:
                    await client.send(type="subscribe", **product)
                case 2:
                    await client.send(type="subscribe", from_seq=0, **product)
                case 3:
                    from_seq = choose.choice(market.chain)
                    await client.send(type="subscribe", from_seq=from_seq, **product)
                case 4:
                    mode = choose.choice(["latest", "full"])
                    await client.send(type="subscribe", mode=mode, **product)
                case 5:
                    await client.send(type="resync", **product)
                case 6:
                    await client.send(type="unsubscribe", **product)
                case _:
                    for _ in range(choose.randrange(60)):
                        await client.receive()
                        if client.messages[-1]["type"] == "hb":
                            break
        for market in markets:
            await client.send(
                type="subscribe", id="end", product=market.key.product, channel=market.key.channel
            )
        for _ in markets:
            await client.until(lambda m: m["type"] == "subscribed" and m.get("id") == "end")
        for market in markets:
            await client.reach(market)
    return client


@pytest.mark.parametrize("seed", range(4))
async def test_no_stream_of_any_client_ever_breaks(seed: int) -> None:
    async with bench(
        MemoryBroker(), ws_queue_bytes=20_000, window_bytes=40_000, ws_burst=1000
    ) as gateway:
        markets = [gateway.market(), gateway.market("ETH-USD"), gateway.market(channel="trades")]
        for market in markets:
            await market.publish(market.status())
            await market.ticks(200)

        async def trade() -> None:
            choose = random.Random(seed)
            for number in range(400):
                market = choose.choice(markets)
                if number % 97 == 0:
                    await market.publish(market.reset({"trades": []}))
                elif number % 41 == 0:
                    await market.publish(market.status("quiet"))
                else:
                    await market.ticks(choose.randrange(1, 5))

        async with asyncio.TaskGroup() as group:
            group.create_task(trade())
            clients = [
                group.create_task(behave(gateway, markets, seed * 10 + number))
                for number in range(4)
            ]
    for task in clients:
        assert task.result().breaks == []
