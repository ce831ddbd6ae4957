"""Who falls behind in the middle of another change is not made live by the rest of it."""

from __future__ import annotations

import pytest

from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.clients.dependencies import GatewayParts
from services.gateway.fanout.subscription import State, Subscription, Terms
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.testing import small_settings
from services.gateway.tests.test_shared_buffers import World

_QUEUE = 4096


@pytest.fixture
async def parts() -> GatewayParts:
    chosen = small_settings(ws_queue_bytes=_QUEUE)
    return Gateway(chosen, MemoryBroker(), log_specs(chosen), Metrics()).parts


@pytest.mark.parametrize("change", ["its quota runs out", "it asks for another mode"])
async def test_who_fell_behind_by_what_waits_in_the_turn_is_not_live_all_the_same(
    parts: GatewayParts, change: str
) -> None:
    quota = change == "its quota runs out"
    world = World(parts, product_rate=3.0 if quota else 0.0)
    client = world.clients[1]
    world.hub.touch(client)
    world.clock.turn()
    world.attach(1, 0)
    subscription = client.live[0]
    world.settle()
    client.link.stuck = True
    world.publish(0)
    world.clock.turn()
    held = world.heads[0]
    # The transport is full, and nearly so is the outbox: what waits in the turn does not fit.
    client.outbox.put(b"y" * (_QUEUE - 96))
    if quota:
        for _ in range(4):
            world.publish(0)
    else:
        world.publish(0)
        world.change(1, 0)
    assert subscription.state is State.CATCHING_UP
    assert subscription.catching is not None
    assert subscription.catching.position == held
    assert subscription not in world.live_streams[0].conflated
    assert world.live_streams[0].full == {}


async def test_who_is_owed_ticks_falls_behind_from_what_it_holds(parts: GatewayParts) -> None:
    world = World(parts)
    client = world.clients[1]
    world.publish(0)
    held = world.heads[0]
    subscription = Subscription(client, world.live_streams[0], Terms("latest"))
    world.hub.touch(client)
    world.clock.turn()
    world.hub.attach(subscription, held)
    client.link.stuck = True
    # The transport is full, so that nothing of what it is owed is sent.
    client.tell(b'{"n":0}', control=True)
    world.clock.turn()
    for _ in range(3):
        world.publish(0)
        world.clock.turn()
    client.outbox.put(b"y" * _QUEUE)
    status = StreamRecord(world.markets[0].status().payload)
    world.hub.publish(world.live_streams[0], [status], world.heads[0])
    assert subscription.state is State.CATCHING_UP
    assert subscription.catching is not None
    assert subscription.catching.position == held
