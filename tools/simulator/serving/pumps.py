"""What moves a market on with the clock and hands its messages to the hub. Neither ever ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from tools.simulator.clock import SECOND
from tools.simulator.market.market import MarketModel
from tools.simulator.protocol.messages import Channel
from tools.simulator.replay import ReplayMarket
from tools.simulator.serving.hub import Hub
from tools.simulator.venue import online

log = structlog.get_logger(__name__)

# How often the market is moved on; messages of one step are written to a client together.
_STEP_S = 0.005
# How much of the market is made up for in one step when the clock has run ahead.
_BEHIND_US = SECOND // 4
# Written frames between two looks at whether the clients keep up, when replaying at full speed.
_REPLAY_CHUNK = 64
# How long a replay waits for the clients that it cut; then it goes on without them.
_RECONNECT_S = 30.0


async def pump_model(
    model: MarketModel, hub: Hub, paused: Callable[[], bool], idle: Callable[[], bool]
) -> None:
    """Let the market's clock go as the machine's does, except while it is paused.

    While it is `idle`, nothing happens but heartbeats.
    """
    loop = asyncio.get_running_loop()
    start_s, start_us = loop.time(), model.now_us
    pause_s = _STEP_S
    while True:
        await asyncio.sleep(pause_s)
        now_s = loop.time()
        if paused():
            start_s, start_us = now_s, model.now_us
            continue
        to_us = start_us + round((now_s - start_s) * SECOND)
        if to_us - model.now_us > _BEHIND_US:
            # A machine that cannot keep up gets a slower market, rather than one that leaves no
            # time to whoever else is in this process.
            to_us = model.now_us + _BEHIND_US
            start_s, start_us = now_s, to_us
        hub.dispatch(model.idle(to_us) if idle() else model.advance(to_us))
        pause_s = max(_STEP_S, loop.time() - now_s)


async def pump_replay(
    replay: ReplayMarket, hub: Hub, speed: float, settle_s: float, idle: Callable[[], bool]
) -> None:
    """Wait for a client, play the recording at `speed`, then keep a quiet market's heartbeats.

    `speed` 0 is as fast as the slowest client reads. While it is `idle`, only heartbeats are sent.
    `settle_s` is how long the first clients have been silent before it begins, so that one that
    subscribes in several requests misses nothing.
    """
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while idle():
        if loop.time() >= due_s:
            hub.dispatch(replay.waiting_beats())
            due_s = loop.time() + 1
        await asyncio.sleep(_STEP_S)
    await _first_subscriptions(replay, hub, settle_s)
    start_s, start_us = loop.time(), replay.first_us
    replay.begin()
    while not replay.finished:
        if replay.cut_due:
            await _reconnected(replay, hub, settle_s)
            start_s, start_us = loop.time(), replay.now_us
        elif idle():
            start_s, start_us = await _idle(replay, hub, idle)
        elif speed:
            elapsed_us = round((loop.time() - start_s) * speed * SECOND)
            hub.dispatch(replay.advance(start_us + elapsed_us))
            await asyncio.sleep(_STEP_S)
        else:
            hub.dispatch(replay.take(_REPLAY_CHUNK))
            await hub.drained()
            # Lets connections and requests in between two chunks.
            await asyncio.sleep(0)
    log.info("replay_finished", frames=replay.position)
    await _idle(replay, hub, lambda: True)


async def _idle(replay: ReplayMarket, hub: Hub, idle: Callable[[], bool]) -> tuple[float, int]:
    """Keep a quiet market's heartbeats while `idle`; then where both clocks stand."""
    loop = asyncio.get_running_loop()
    start_s, start_us = loop.time(), replay.now_us
    while idle():
        await asyncio.sleep(_STEP_S)
        hub.dispatch(replay.beat(start_us + round((loop.time() - start_s) * SECOND)))
    return loop.time(), replay.now_us


async def _reconnected(replay: ReplayMarket, hub: Hub, settle_s: float) -> None:
    """Cut all clients, as the recorder was cut, and wait until they have subscribed anew."""
    had_clients = bool(hub.clients)
    log.info("replay_connection_cut", position=replay.position, clients=len(hub.clients))
    hub.disconnect_all(None, "")
    # What comes next was told to one who had just subscribed.
    if had_clients:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECONNECT_S):
                await _first_subscriptions(replay, hub, settle_s)
    replay.pass_cut()


async def _first_subscriptions(replay: ReplayMarket, hub: Hub, settle_s: float) -> None:
    pairs = [
        (channel, product)
        for channel in (Channel.MATCHES, Channel.LEVEL2_BATCH, Channel.LEVEL2)
        for product in online(replay.products)
    ]
    while not any(hub.wanted(pair) for pair in pairs):
        hub.subscribed.clear()
        await hub.subscribed.wait()
    while True:
        hub.subscribed.clear()
        try:
            async with asyncio.timeout(settle_s):
                await hub.subscribed.wait()
        except TimeoutError:
            return
