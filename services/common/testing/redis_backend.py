"""A Redis server under test, whichever: what the conformance suite asks of its commands."""

from __future__ import annotations

from typing import Protocol

from services.common.stream import Broker, Publisher
from services.common.stream.redis.broker import RedisBroker
from services.common.testing.conformance import BTC, ETH, LOG, Backend, Part, let_raise


class Server(Protocol):
    """What speaks RESP, the real server or a model of it."""

    @property
    def url(self) -> str: ...


class RedisBackend(Backend):
    """Does by Redis' own commands what the suite asks for; how a server ends is its own."""

    replaces = False

    def __init__(self, server: Server) -> None:
        self.server = server

    def broker(self) -> Broker:
        return RedisBroker(self.server.url)

    async def expire(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        await broker.trim()

    async def break_part(self, part: Part) -> None:
        let_raise(part, "_store" if isinstance(part, Publisher) else "_cycle")

    async def delete_group(self, broker: Broker, group: str) -> None:
        assert isinstance(broker, RedisBroker)
        call = broker._calls().call
        for key in await call("KEYS", "market:*"):
            if await call("TYPE", key) == b"stream":
                await call("XGROUP", "DESTROY", key, group)

    async def kept(self, broker: Broker, group: str) -> int:
        assert isinstance(broker, RedisBroker)
        kept = await broker._calls().call("HGETALL", f"market:places:raw:{group}")
        made, _, identity = kept.get(f"{BTC}@1".encode(), b"0:0-0").decode().partition(":")
        if made != str(await broker.log_epoch(LOG)):
            return 0
        # Just before record n is behind all of n - 1.
        return int(identity.partition("-")[0])

    async def refuse(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        await broker._calls().call("SET", f"market:{ETH}@1", "somebody else's")

    async def add_foreign(self, broker: Broker) -> int:
        assert isinstance(broker, RedisBroker)
        call = broker._calls().call
        stream = "market:market.raw.coinbase.ticker.BTC-USD@1"
        await call("XADD", stream, "1-5", "not", "ours")
        await call("XADD", stream, "1-6", "p", "", "h", "{")
        await call("XADD", "market:registry:raw", "*", "not", "ours")
        await call("XADD", "market:registry:raw", "*", "s", "\ud800".encode(errors="surrogatepass"))
        await call("XADD", "market:registry:raw", "*", "s", "strange", "e", "x")
        await call("XADD", "market:registry:raw", "*", "s", "market.raw.strange", "e", "7")
        await call("XADD", "market:market.raw.strange@7", "3-1", "p", "odd")
        # No record can have this epoch; nothing was trimmed up to these.
        await call("XADD", "market:registry:raw", "*", "s", "market.raw.strange", "e", "9" * 30)
        await call("HSET", "market:trimmed:raw", stream, "x-1", "market:odd@1", b"\xff")
        return 3
