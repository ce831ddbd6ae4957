"""The subscriber against a scripted gateway on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from market_data_fanout_client import Refused
from market_data_fanout_client.chain import Verdict
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from services.common.testing.waiting import WAIT_S
from tools.latency import LatencyHistogram
from tools.subscriber import Message, Subscriber, Want

PRODUCT = "BTC-USD"
Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One accepted connection, seen from the scripted gateway."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def send(self, *messages: dict[str, Any] | list[dict[str, Any]]) -> None:
        for message in messages:
            await self.socket.send(json.dumps(message))

    async def accept(self) -> dict[str, Any]:
        """Take the subscription and confirm it."""
        command = await self.receive()
        await self.send(
            {
                "type": "subscribed",
                "id": command["id"],
                "results": [
                    {"venue": "coinbase", "channel": "ticker", "product": PRODUCT, "ok": True}
                ],
            }
        )
        return command


def incr(seq: int, prev: int | None, epoch: int = 1) -> dict[str, Any]:
    return {
        "type": "incr",
        "tick": {
            "venue": "coinbase",
            "channel": "ticker",
            "product": PRODUCT,
            "epoch": epoch,
            "seq": seq,
            "prev": prev,
            "ts_ingest": 1,
        },
    }


def snapshot(seq: int, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "type": "snapshot",
        "snapshot": {
            "venue": "coinbase",
            "channel": "ticker",
            "product": PRODUCT,
            "epoch": epoch,
            "seq": seq,
        },
        **more,
    }


@contextlib.asynccontextmanager
async def gateway(*scripts: Script) -> AsyncIterator[str]:
    """Serves one script for each connection in turn; the last one again and again."""
    accepted = 0

    async def serve_one(socket: ServerConnection) -> None:
        nonlocal accepted
        accepted += 1
        with contextlib.suppress(ConnectionClosed):
            await scripts[min(accepted, len(scripts)) - 1](Peer(socket, accepted))

    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"


async def run_until(
    subscriber_url: str, done: Callable[[Message, Verdict | None], bool], **want: Any
) -> Subscriber:
    """Run a subscriber until a message fulfils `done`."""
    reached = asyncio.Event()

    def on_message(message: Message, verdict: Verdict | None) -> None:
        if done(message, verdict):
            reached.set()

    subscriber = Subscriber(
        subscriber_url, [Want("ticker", (PRODUCT,), **want)], on_message=on_message
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(subscriber.run())
        async with asyncio.timeout(WAIT_S):
            await reached.wait()
        running.cancel()
    return subscriber


def applied(seq: int) -> Callable[[Message, Verdict | None], bool]:
    return lambda message, verdict: (
        message["type"] == "incr" and verdict is Verdict.APPLY and message["tick"]["seq"] == seq
    )


async def test_it_comes_back_from_the_position_it_holds() -> None:
    resumed: list[dict[str, Any]] = []

    async def first(peer: Peer) -> None:
        assert "from_seq" not in await peer.accept()
        await peer.send(snapshot(10), incr(11, 10))
        await peer.socket.close(1011)

    async def second(peer: Peer) -> None:
        resumed.append(await peer.accept())
        await peer.send(incr(12, 11))
        await peer.socket.wait_closed()

    async with gateway(first, second) as url:
        subscriber = await run_until(url, applied(12))
    assert resumed[0]["from_seq"] == {PRODUCT: 11}
    assert resumed[0]["epoch"] == 1
    assert subscriber.resumes == 1
    assert subscriber.counts().breaks == 0
    assert subscriber.counts("ticker").applied == 2
    assert subscriber.counts("book").applied == 0


async def test_it_asks_for_a_resync_on_a_break_and_goes_on_after_the_snapshot() -> None:
    asked: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(snapshot(10), incr(12, 11), incr(13, 12))
        asked.append(await peer.receive())
        await peer.send(snapshot(13, reason="resync"), incr(14, 13))
        await peer.socket.wait_closed()

    async with gateway(script) as url:
        subscriber = await run_until(url, applied(14))
    assert (asked[0]["type"], asked[0]["product"]) == ("resync", PRODUCT)
    assert subscriber.counts().unexplained == 1
    assert subscriber.counts().ignored == 1


async def test_it_sends_a_rate_limited_command_again() -> None:
    async def script(peer: Peer) -> None:
        refused = await peer.receive()
        await peer.send(
            {"type": "rate_limit", "scope": "commands", "id": refused["id"], "retry_after_ms": 1}
        )
        assert (await peer.accept())["id"] == refused["id"]
        await peer.send(incr(1, None))
        await peer.socket.wait_closed()

    async with gateway(script) as url:
        subscriber = await run_until(url, applied(1))
    assert subscriber.rate_limits == 1


async def test_it_subscribes_again_when_the_server_asks_to_come_later() -> None:
    async def script(peer: Peer) -> None:
        command = await peer.receive()
        result = {
            "venue": "coinbase",
            "channel": "ticker",
            "product": PRODUCT,
            "ok": False,
            "error": {
                "code": 6001,
                "name": "broker_unavailable",
                "retry": "after",
                "retry_after_ms": 1,
            },
        }
        await peer.send({"type": "subscribed", "id": command["id"], "results": [result]})
        await peer.accept()
        await peer.send(incr(1, None))
        await peer.socket.wait_closed()

    async with gateway(script) as url:
        subscriber = await run_until(url, applied(1))
    assert subscriber.errors == []


async def test_it_comes_back_after_a_drain_within_the_spread_the_server_asks_for() -> None:
    async def first(peer: Peer) -> None:
        await peer.accept()
        await peer.send(
            incr(1, None), {"type": "drain", "deadline_ms": 100, "reconnect_after_ms": [0, 1]}
        )
        await peer.socket.close(1012)

    async def second(peer: Peer) -> None:
        await peer.accept()
        await peer.send(incr(2, 1))
        await peer.socket.wait_closed()

    async with gateway(first, second) as url:
        subscriber = await run_until(url, applied(2))
    assert subscriber.drains == 1
    assert subscriber.counts().breaks == 0


async def test_a_large_snapshot_counts_once_its_last_part_is_there_and_arrays_are_read() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(
            [snapshot(10, part=1, last=False), snapshot(10, part=2, last=True)], [incr(11, 10)]
        )
        await peer.socket.wait_closed()

    async with gateway(script) as url:
        subscriber = await run_until(url, applied(11))
    assert subscriber.counts().snapshots == 1


async def test_a_refused_key_ends_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive()
        await peer.send(
            {"type": "error", "code": 2001, "name": "key_invalid", "message": "no", "retry": "no"}
        )
        await peer.socket.wait_closed()

    async with gateway(script) as url:
        subscriber = Subscriber(url, [Want("ticker", (PRODUCT,))])
        with pytest.raises(Refused, match="key_invalid"):
            await subscriber.run()


def test_quantiles_are_within_five_percent() -> None:
    histogram, other = LatencyHistogram(), LatencyHistogram()
    assert histogram.quantile(0.5) is None
    for micros in range(1, 501):
        histogram.add(micros)
        other.add(micros + 500)
    histogram.merge(other)
    assert histogram.count == 1000
    assert histogram.quantile(0.5) == pytest.approx(500, rel=0.051)
    assert histogram.quantile(0.99) == pytest.approx(990, rel=0.051)
