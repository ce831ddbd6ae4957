"""Parts of the platform are taken away while it runs: no subscriber may notice a hole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.common.testing.waiting import eventually
from tests.stack_process import running_subscriber
from tools.stack import Stack, StackOptions
from tools.stack.options import SERVICES, BrokerKind
from tools.subscriber import Subscriber, Want

pytestmark = pytest.mark.e2e

CHANNELS = ("ticker", "trades", "book")
# Long enough for every client library to lose its connection and to try in vain to come back.
OUTAGE_S = 5.0


def options(folder: Path, broker: BrokerKind = "nats") -> StackOptions:
    return StackOptions(products=("BTC-USD", "ETH-USD"), broker_kind=broker, run_dir=folder)


def subscribers(stack: Stack) -> list[Subscriber]:
    """One that follows, one that also reads the whole log."""
    return [
        Subscriber(stack.gateway_url, [Want(channel, stack.products) for channel in CHANNELS]),
        Subscriber(
            stack.gateway_url,
            [
                Want("ticker", stack.products, from_seq=0),
                Want("trades", stack.products, from_seq=0),
            ],
        ),
    ]


async def ticks_flow(clients: list[Subscriber], more: int = 5) -> None:
    """Return once every client got some more ticks of every product and channel it wants."""
    targets = [
        (chain, chain.counts.applied + more)
        for client in clients
        for chain in client.chains.values()
    ]
    await eventually(lambda: all(chain.counts.applied >= goal for chain, goal in targets))


def assert_unbroken(clients: list[Subscriber]) -> None:
    for client in clients:
        counts = client.counts()
        assert counts.unexplained == 0, counts
        assert counts.breaks == 0, counts
        assert client.errors == []


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_the_chain_survives_five_seconds_without_the_broker(
    broker: BrokerKind, tmp_path: Path
) -> None:
    async with Stack(options(tmp_path, broker)) as stack:
        clients = subscribers(stack)
        async with running_subscriber(*clients):
            await ticks_flow(clients)
            await stack.kill(stack.broker.name)
            await asyncio.sleep(OUTAGE_S)  # the outage itself, not a wait for something
            await stack.restart(stack.broker.name)
            await ticks_flow(clients)
        assert_unbroken(clients)


async def test_the_chain_survives_the_crash_of_each_service_in_turn(tmp_path: Path) -> None:
    async with Stack(options(tmp_path)) as stack:
        clients = subscribers(stack)
        async with running_subscriber(*clients):
            await ticks_flow(clients)
            for name in SERVICES:
                await stack.kill(name)
                await stack.restart(name)
                await ticks_flow(clients)
        assert_unbroken(clients)
        assert all(client.resumes for client in clients)
