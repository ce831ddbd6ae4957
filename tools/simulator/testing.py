"""A plain client of the feed for tests: it subscribes, keeps every frame, waits for conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tools.simulator.protocol.auth import Credentials

Message = dict[str, Any]
_PATIENCE_S = 20.0


class FeedClient:
    """`frames` are the raw frames in order of arrival, `messages` the same decoded."""

    def __init__(self, url: str) -> None:
        self._connecting = connect(url, max_size=None, max_queue=None, ping_interval=None)
        self.frames: list[str | bytes] = []
        self.messages: list[Message] = []

    async def __aenter__(self) -> Self:
        self.socket: ClientConnection = await self._connecting.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.socket.close()

    async def send(self, message: Message) -> None:
        await self.socket.send(msgspec.json.encode(message).decode())

    async def receive(self) -> Message:
        """The next message. Raises `websockets.ConnectionClosed`, or TimeoutError after 20 s."""
        async with asyncio.timeout(_PATIENCE_S):
            frame = await self.socket.recv()
        self.frames.append(frame)
        message: Message = msgspec.json.decode(frame)
        self.messages.append(message)
        return message

    async def until(self, condition: Callable[[Message], object]) -> Message:
        while not condition(message := await self.receive()):
            pass
        return message

    async def until_type(self, kind: str) -> Message:
        return await self.until(lambda message: message["type"] == kind)

    async def subscribe(
        self,
        channels: Sequence[str | Message],
        products: Sequence[str],
        *,
        signed_by: Credentials | None = None,
    ) -> Message:
        """Subscribe and return the answer, an ack or an error."""
        signature = signed_by.signed_fields(str(int(time.time()))) if signed_by else {}
        request = {"type": "subscribe", "product_ids": products, "channels": channels}
        await self.send({**request, **signature})
        return await self.until(lambda each: each["type"] in ("subscriptions", "error"))

    def of(self, kind: str, product: str | None = None) -> list[Message]:
        """The messages of a type received so far."""
        return [
            each
            for each in self.messages
            if each["type"] == kind and product in (None, each.get("product_id"))
        ]
