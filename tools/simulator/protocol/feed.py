"""The WebSocket end of a client's connection, written to directly.

uvicorn keeps handshake, reading, pings and closing. The hub writes whole batches of frames in one
call, and can write what no ASGI message can say: text that is not UTF-8, or nothing at all.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

EXTENSION = "simulator.feed"


class FeedProtocol(WebSocketsSansIOProtocol):
    """Offers itself to the application in `scope["extensions"]`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsent: list[bytes] = []

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self

    @property
    def open(self) -> bool:
        return self.conn.state is State.OPEN and not self.transport.is_closing()

    @property
    def backlog(self) -> int:
        """Bytes this client has not taken yet."""
        return self.transport.get_write_buffer_size()

    def push(self, payload: bytes, *, text: bool = True) -> None:
        """Add one message to what `flush` writes."""
        if self.open:
            send = self.conn.send_text if text else self.conn.send_binary
            send(payload)
            self._unsent.extend(self.conn.data_to_send())

    def flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written, or has gone."""
        await self.writable.wait()

    def cut(self) -> None:
        """Drop the TCP connection, as a network failure would."""
        self.transport.abort()
