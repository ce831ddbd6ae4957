"""For tests: a client that keeps every message and checks each chain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from services.common.testing.waiting import WAIT_S
from services.gateway.testing.market import Market

Message = dict[str, Any]


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
            self.held.pop(_stream(message), None)
            if message["from"]:
                # Who says 0 holds nothing: the first record may come after any.
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
