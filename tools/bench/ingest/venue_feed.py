"""A venue's feed at the speed of the wire: frames made beforehand, sent by a process of its own.

`python -m tools.bench.ingest.venue_feed COUNT` prints its port and how many it sends, serves
`/products` and WebSocket feeds, and sends the frames when `/go` is asked for. Nothing is computed
while it sends, so that what is measured at the other end is the other end.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
import zlib
from collections.abc import Iterator

from services.gateway.websocket.rfc6455.frames import compressed_frame, text_frame
from services.gateway.websocket.rfc6455.handshake import accept_key, refusal, upgrade
from tools.simulator.clock import iso6
from tools.simulator.protocol.messages import (
    Heartbeat,
    L2Update,
    LastMatch,
    Match,
    Snapshot,
    Ticker,
    encode,
)

PRODUCTS = [f"P{number:02d}-USD" for number in range(20)]
# Of 100 messages: book updates, then a match and its ticker; as the live feed has it.
_BOOK_SHARE = 0.6
_CHANGES = (1, 2, 4, 8, 8, 12, 16, 20)
_HEARTBEAT_EVERY = 100
_STEP_US = 10_000
_DEPTH = 500
_WRITE = 256 * 1024


def greetings(start_us: int) -> Iterator[bytes]:
    """A snapshot and a last match of each product."""
    asks, bids = (
        [(f"{100 + sign * n / 100:.2f}", "1.00000000") for n in range(1, _DEPTH)]
        for sign in (1, -1)
    )
    for product in PRODUCTS:
        yield encode(Snapshot(product, asks, bids, iso6(start_us)))
        yield encode(LastMatch.of(_match(product, 1000, 500_000, start_us)))


def messages(count: int, start_us: int, seed: int = 1) -> Iterator[bytes]:
    """`count` messages without a gap."""
    pick = random.Random(seed)
    trade = dict.fromkeys(PRODUCTS, 1000)
    sequence = dict.fromkeys(PRODUCTS, 500_000)
    sent = dict.fromkeys(PRODUCTS, 0)
    made = 0
    while made < count:
        product = pick.choice(PRODUCTS)
        sent[product] += 1
        at = start_us + sent[product] * _STEP_US
        sequence[product] += pick.randint(2, 90)
        if sent[product] % _HEARTBEAT_EVERY == 0:
            made += 1
            yield encode(Heartbeat(trade[product], product, sequence[product], iso6(at)))
        elif pick.random() < _BOOK_SHARE / (1 - (1 - _BOOK_SHARE) / 2):
            made += 1
            changes = [_change(pick) for _ in range(pick.choice(_CHANGES))]
            yield encode(L2Update(product, changes, iso6(at)))
        else:
            trade[product] += 1
            made += 2
            match = _match(product, trade[product], sequence[product], at)
            yield encode(match)
            yield encode(_ticker(match))


def _change(pick: random.Random) -> tuple[str, str, str]:
    offset = pick.randint(1, _DEPTH) / 100
    side = pick.choice(("buy", "sell"))
    price = 100 - offset if side == "buy" else 100 + offset
    size = 0.0 if pick.random() < 0.3 else pick.random()
    return side, f"{price:.2f}", f"{size:.8f}"


def _match(product: str, trade_id: int, sequence: int, at: int) -> Match:
    return Match(
        trade_id,
        maker_order_id=f"6e3d1b2c-0b1a-4c7e-9c1d-{trade_id:012d}",
        taker_order_id=f"9f1c7a55-77aa-4f3e-8e0b-{sequence:012d}",
        side="sell",
        size="0.01283000",
        price="100.01",
        product_id=product,
        sequence=sequence,
        time=iso6(at),
    )


def _ticker(match: Match) -> Ticker:
    return Ticker(
        match.sequence,
        match.product_id,
        price="100.01",
        open_24h="98.12",
        volume_24h="1836.96781750",
        low_24h="97.01",
        high_24h="101.77",
        volume_30d="60211.77180000",
        best_bid="100.00",
        best_bid_size="0.19921154",
        best_ask="100.02",
        best_ask_size="0.50000000",
        side="buy",
        time=match.time,
        trade_id=match.trade_id,
        last_size=match.size,
    )


class Framer:
    """Server frames, compressed with context takeover or not."""

    def __init__(self, *, compressed: bool) -> None:
        self._deflate = zlib.compressobj(wbits=-15) if compressed else None

    def frame(self, payload: bytes) -> bytes:
        if self._deflate is None:
            return text_frame(payload)
        payload = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return compressed_frame(payload[:-4])


class _Server:
    def __init__(self, count: int) -> None:
        self._go = asyncio.Event()
        self._start_us = time.time_ns() // 1000
        self._made: dict[bool, tuple[bytes, bytes]] = {}
        self._count = count

    async def serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        for compressed in (False, True):
            framer = Framer(compressed=compressed)
            hello = b"".join(map(framer.frame, greetings(self._start_us)))
            frames = [framer.frame(body) for body in messages(self._count, self._start_us)]
            self._made[compressed] = hello, b"".join(frames)
        # A match and its ticker count as two, so it may be one more than was asked for.
        print(server.sockets[0].getsockname()[1], len(frames), flush=True)
        async with server:
            await server.serve_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            asked, *lines = head.strip().split(b"\r\n")
            parted = (line.partition(b":") for line in lines)
            fields = {name.lower(): value.strip() for name, _, value in parted}
            if b"sec-websocket-key" not in fields:
                body = self._answer(asked.split(b" ")[1])
                writer.write(refusal(200, [(b"content-type", b"application/json")], body))
            else:
                await self._feed(fields, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _answer(self, path: bytes) -> bytes:
        if path == b"/go":
            self._go.set()
        elif path == b"/products":
            return encode([{"id": product, "status": "online"} for product in PRODUCTS])
        return b"{}"

    async def _feed(
        self, fields: dict[bytes, bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        compressed = b"permessage-deflate" in fields.get(b"sec-websocket-extensions", b"")
        extension = [(b"sec-websocket-extensions", b"permessage-deflate")] if compressed else []
        writer.write(upgrade(accept_key("GET", "1.1", list(fields.items())), extension))
        # The subscription; what it says is known.
        await reader.read(1)
        hello, rest = self._made[compressed]
        writer.write(hello)
        self._go.clear()
        await self._go.wait()
        for start in range(0, len(rest), _WRITE):
            writer.write(rest[start : start + _WRITE])
            await writer.drain()
        # Until the client goes.
        while await reader.read(4096):
            continue


if __name__ == "__main__":
    asyncio.run(_Server(int(sys.argv[1])).serve())
