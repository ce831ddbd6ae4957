"""A NATS server under test, whichever: what the conformance suite asks of its API."""

from __future__ import annotations

from typing import Protocol

from services.common.stream import Broker
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.group import NatsGroup
from services.common.stream.nats.live import NatsLive
from services.common.stream.nats.publisher import NatsPublisher
from services.common.testing.conformance import LOG, Backend, Part, let_raise


class Server(Protocol):
    """What speaks NATS, the real server or a model of it."""

    @property
    def url(self) -> str: ...


class NatsBackend(Backend):
    """Does by JetStream's own API what the suite asks for; how a server ends is its own."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def broker(self) -> Broker:
        return NatsBroker([self.server.url])

    async def expire(self, broker: Broker) -> None:
        """The server does it by itself."""

    async def break_part(self, part: Part) -> None:
        if isinstance(part, NatsLive | NatsGroup):
            let_raise(part, "_serve")
            part._link.current().lose()
        else:
            assert isinstance(part, NatsPublisher)
            let_raise(part, "_send")
            part._wake.set()

    async def delete_group(self, broker: Broker, group: str) -> None:
        assert isinstance(broker, NatsBroker)
        await broker.api(f"CONSUMER.DELETE.MARKET_RAW.{group}")

    async def kept(self, broker: Broker, group: str) -> int:
        assert isinstance(broker, NatsBroker)
        place = await broker._places.find(broker._current(), LOG, group)
        epoch = await broker.log_epoch(LOG)
        return place.seq if place is not None and place.epoch == epoch else 0

    async def refuse(self, broker: Broker) -> None:
        assert isinstance(broker, NatsBroker)
        connection = broker._current()
        config = (await connection.api("STREAM.INFO.MARKET_RAW"))["config"]
        await connection.api("STREAM.UPDATE.MARKET_RAW", config | {"max_msg_size": 1000})

    async def add_foreign(self, broker: Broker) -> int:
        assert isinstance(broker, NatsBroker)
        connection = broker._current()
        frames = [
            b"PUB market.raw.strange 3\r\nodd\r\n",
            b"PUB market.raw.a.b.\xff\xfe 3\r\nodd\r\n",
            b"PUB market.raw.coinbase.ticker.BTC-USD 3\r\nodd\r\n",
        ]
        long = b"Nats-Msg-Id: coinbase:ticker:BTC-USD:1:" + b"9" * 5000
        for identity in (b"Nats-Msg-Id: coinbase:ticker:BTC-USD:1:x", long, b"\xff: \xff"):
            block = b"NATS/1.0\r\n" + identity + b"\r\n\r\n"
            frames.append(
                b"HPUB market.raw.coinbase.ticker.ETH-USD %d %d\r\n%bodd\r\n"
                % (len(block), len(block) + 3, block)
            )
        connection.write(b"".join(frames))
        await connection.client.flush()
        return len(frames)
