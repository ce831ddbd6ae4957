"""For tests: a market that publishes chained ticks, a gateway on a free port, a client of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from services.common.clock import now_us
from services.common.errors import StoreUnavailable
from services.common.sharding import shard_of
from services.common.stores.ports import (
    ArchiveReader,
    Checkpoint,
    CheckpointReader,
    LatestReader,
    LatestRow,
)
from services.common.stream import Broker, Position, Publisher, Record
from services.common.stream.specs import log_specs
from services.common.subjects import StreamKey, tick_subject
from services.common.testing.waiting import WAIT_S
from services.common.wire import (
    UNCHAINED,
    Fields,
    Late,
    Level,
    Missed,
    Repair,
    Reset,
    Status,
    StreamState,
    Tick,
    Trade,
    encode,
)
from services.gateway.app import serve
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings

Message = dict[str, Any]
EPOCH = 1_700_000_000_000_000

_FIRST_TRADE = Missed(1, 1, 1)


class Market:
    """Publishes one stream's records the way the normalizer does."""

    def __init__(
        self,
        publisher: Publisher | None,
        product: str = "BTC-USD",
        channel: str = "ticker",
        *,
        shards: int = 2,
        epoch: int = EPOCH,
        padding: int = 0,
    ) -> None:
        self.key = StreamKey("coinbase", channel, product)
        self.shard = shard_of(product, shards)
        self.subject = tick_subject(self.shard, self.key)
        self.epoch = epoch
        self.seq: int | None = None
        self.sub = 0
        self.records: list[bytes] = []
        self.clock: Callable[[], int] = lambda: time.time_ns() // 1000
        self._publisher = publisher
        self._padding = "0" * padding

    @property
    def chain(self) -> list[int]:
        """Every `seq` that a client with the whole stream has seen."""
        found = [msgspec.json.decode(record) for record in self.records]
        return [record["seq"] for record in found if record["type"] not in UNCHAINED]

    def tick(self, fields: Fields | None = None, *, step: int = 7) -> Record:
        """The next tick, not published."""
        seq = (self.seq or 100) + step
        payload = encode(
            Tick(
                v=1,
                **self._names(),
                epoch=self.epoch,
                seq=seq,
                prev=self.seq,
                venue_seq=seq,
                ts_event=self.clock(),
                ts_ingest=self.clock(),
                fields=fields or self._fields(seq),
            )
        )
        return self._record(payload, seq, 0)

    def reset(self, state: Any = None, *, repair: Repair = "snapshot", step: int = 50) -> Record:
        seq = (self.seq or 100) + step
        reset = Reset.at(
            self.key,
            self.shard,
            (self.epoch, seq),
            self.seq,
            (self.clock(), self.clock()),
            "gap",
            msgspec.Raw(encode(state)) if state is not None else None,
            missed=Missed((self.seq or 0) + 1, seq - 1),
        )
        # Older writers also said `refilled`.
        payload = encode(msgspec.structs.replace(reset, repair=repair))
        return self._record(payload, seq, 0)

    def status(self, state: StreamState = "live") -> Record:
        seq = self.seq or 0
        payload = encode(
            Status(
                v=1,
                **self._names(),
                epoch=self.epoch,
                seq=seq,
                sub=self.sub + 1,
                state=state,
                since=self.clock(),
                evidence="test",
                ts_ingest=self.clock(),
            )
        )
        return self._record(payload, seq, self.sub + 1)

    def late(
        self,
        missed: Missed = _FIRST_TRADE,
        *,
        trades: Sequence[int] = (),
        open: Sequence[Missed] = (),
        lost: Sequence[Missed] = (),
    ) -> Record:
        """What became known of a gap that was announced before, whenever that was."""
        seq = self.seq or 0
        ticks = [
            Tick(
                v=1,
                **self._names(),
                epoch=self.epoch,
                seq=trade,
                prev=trade - 1,
                venue_seq=None,
                ts_event=self.clock(),
                ts_ingest=self.clock(),
                fields=self._fields(trade),
            )
            for trade in trades
        ]
        payload = encode(
            Late(
                v=1,
                **self._names(),
                epoch=self.epoch,
                seq=seq,
                sub=self.sub + 1,
                missed=missed,
                ticks=ticks,
                open=list(open),
                lost=list(lost),
                reason="found" if trades else "denied" if lost else "open",
                ts_ingest=self.clock(),
            )
        )
        return self._record(payload, seq, self.sub + 1)

    async def publish(self, *records: Record) -> None:
        """Store them in the log."""
        assert self._publisher is not None
        for record in records:
            await self._publisher.send(record)
        await self._publisher.flush()

    async def ticks(self, count: int) -> None:
        """Publish `count` ticks."""
        assert self._publisher is not None
        for _ in range(count):
            await self._publisher.send(self.tick())
        await self._publisher.flush()

    def _names(self) -> dict[str, Any]:
        return {
            "venue": self.key.venue,
            "channel": self.key.channel,
            "product": self.key.product,
            "shard": self.shard,
        }

    def _record(self, payload: bytes, seq: int, sub: int) -> Record:
        self.sub = sub
        if sub == 0:
            self.seq = seq
        self.records.append(payload)
        return Record(self.subject, payload, Position(self.epoch, seq, sub))

    def _fields(self, seq: int) -> Fields:
        if self.key.channel == "book":
            return Fields(changes=[("buy", str(seq % 100 + 1), "1"), ("sell", "500", str(seq))])
        trade = Trade(f"{seq}.5", "0.1", "buy", seq, self.clock())
        if self.key.channel == "trades":
            return Fields(last_trade=trade)
        best = Level(f"{seq}.4" + self._padding, "1"), Level(f"{seq}.6", "1")
        return Fields(last_trade=trade, best_bid=best[0], best_ask=best[1], volume_30d="1")


class Rows(LatestReader, CheckpointReader, ArchiveReader):
    """Stores in a dictionary. While `away` is set, they do not answer.

    Attributes:
        archived: the archived records of each stream, in order.
        asked: how often the archive was read.
    """

    def __init__(self) -> None:
        self.away = False
        self.archived: dict[StreamKey, list[bytes]] = {}
        self.asked = 0
        self.rows: dict[StreamKey, LatestRow] = {}
        self.checkpoints: dict[str, Checkpoint] = {}

    async def get(self, key: StreamKey) -> LatestRow | None:
        self._answer()
        return self.rows.get(key)

    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        self._answer()
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def get_checkpoint(self, object_key: str) -> Checkpoint | None:
        self._answer()
        return self.checkpoints.get(object_key)

    async def read(self, key: StreamKey, shard: int, after: Position) -> AsyncGenerator[bytes]:
        del shard
        self.asked += 1
        self._answer()
        for payload in self.archived.get(key, []):
            if StreamRecord(payload).position > after:
                yield payload

    async def reached(self, key: StreamKey, shard: int, ts: int) -> Position | None:
        del shard
        self._answer()
        found = [StreamRecord(payload) for payload in self.archived.get(key, [])]
        older = [entry.position for entry in found if entry.ts_ingest < ts]
        return older[-1] if older else None

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("memory", "away")


def small_settings(**more: Any) -> GatewaySettings:
    """Settings of a small gateway on a free port, whatever the environment says."""
    values: dict[str, Any] = {
        "http_port": 0,
        "http_host": "127.0.0.1",
        "shard_count": 2,
        "broker_kind": "memory",
        "ws_heartbeat_ms": 200,
        "stream_linger_s": 5,
        "drain_seconds": 1,
        **more,
    }
    return GatewaySettings(**values)


class Bench:
    """A gateway that serves, and a publisher into its log."""

    def __init__(self, gateway: Gateway, port: int, publisher: Publisher) -> None:
        self.gateway = gateway
        self.port = port
        self.publisher = publisher

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def market(self, product: str = "BTC-USD", channel: str = "ticker", **more: Any) -> Market:
        shards = self.gateway.settings.shard_count
        return Market(self.publisher, product, channel, shards=shards, **more)

    def client(self, path: str = "/ws", **options: Any) -> Client:
        return Client(f"ws://127.0.0.1:{self.port}{path}", **options)


@asynccontextmanager
async def bench(
    broker: Broker,
    writer: Broker | None = None,
    rows: Rows | None = None,
    archive: ArchiveReader | None = None,
    micros: Callable[[], int] = now_us,
    **more: Any,
) -> AsyncIterator[Bench]:
    """A gateway on `broker`; `writer` is another broker object on the same log (required).

    `micros` is the time of day by which the gateway judges ages.
    """
    settings = small_settings(**more)
    async with AsyncExitStack() as stack:
        gateway = Gateway(
            settings,
            broker,
            log_specs(settings),
            Metrics(),
            rows,
            rows,
            archive or rows,
            micros=micros,
        )
        port = await stack.enter_async_context(serve(gateway))
        async with asyncio.timeout(WAIT_S):
            await gateway.ready.wait()
        publishing = writer or broker
        if writer is not None:
            await stack.enter_async_context(writer)
            await writer.ensure(log_specs(settings))
        publisher = await publishing.publisher()
        stack.push_async_callback(publisher.aclose)
        yield Bench(gateway, port, publisher)


class Client:
    """A plain client that keeps every message; a record that comes twice is a break to it too.

    Stricter than a client's rule (`market_data_fanout_client.chain`): it never asks for anything.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.messages: list[Message] = []
        self.held: dict[str, int] = {}
        self.breaks: list[str] = []
        self.seen: dict[str, list[int]] = {}
        self._claimed: set[str] = set()
        # Neither a handshake nor a pong is late because the machine is busy.
        bounds = {"open_timeout": WAIT_S, "ping_interval": None}
        self._options = {"compression": None, "max_size": None, **bounds, **options}
        self._read = 0
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await connect(self.url, **self._options)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.socket.close()

    async def send(self, **message: Any) -> None:
        await self.socket.send(msgspec.json.encode(message).decode())

    async def receive(self) -> Message:
        """The next message, noted and checked."""
        async with asyncio.timeout(WAIT_S):
            frame = await self.socket.recv()
        decoded = msgspec.json.decode(frame)
        for message in decoded if isinstance(decoded, list) else [decoded]:
            self._take(message)
        return self.messages[-1]

    async def closed(self) -> int | None:
        """Receive until the server closes; the close code."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None

    async def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Receive until a message that was not asked for before fits."""
        while True:
            while self._read < len(self.messages):
                message = self.messages[self._read]
                self._read += 1
                if wanted(message):
                    return message
            await self.receive()

    async def of(self, *kinds: str) -> Message:
        """The next message of one of these types."""
        return await self.until(lambda message: message["type"] in kinds)

    async def reach(self, market: Market) -> None:
        """Receive until this stream's newest record is held."""
        stream = str(market.key)
        while self.held.get(stream) != market.seq:
            await self.receive()

    def types(self) -> list[str]:
        """The types of all messages but heartbeats, in order."""
        return [message["type"] for message in self.messages if message["type"] != "hb"]

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        kind = message["type"]
        if kind == "backfill" and message["state"] == "begin":
            # What was held is given up for the position that was asked for.
            self.held[_stream(message)] = message["from"]
            self._claimed.add(_stream(message))
        elif kind == "snapshot" and message.get("last", True):
            record = message["snapshot"]
            self.held[_stream(record)] = record["seq"]
        elif kind in ("incr", "reset"):
            record = message["tick"] if kind == "incr" else message
            stream = _stream(record)
            prev = message["prev"] if kind == "incr" and "prev" in message else record["prev"]
            held = self.held.get(stream)
            claimed = stream in self._claimed and (prev or 0) <= (held or 0)
            self._claimed.discard(stream)
            if held is not None and prev != held and not claimed:
                self.breaks.append(f"{stream}: {kind} {record['seq']} after {prev}, held {held}")
            self.held[stream] = record["seq"]
            self.seen.setdefault(stream, []).append(record["seq"])


def _stream(record: Message) -> str:
    return f"{record['venue']}:{record['channel']}:{record['product']}"
