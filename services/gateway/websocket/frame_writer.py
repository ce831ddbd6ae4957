"""What a WebSocket writes: through its transport in order, or past it where nothing waits in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uvicorn.protocols.utils import is_ssl


@dataclass(slots=True, eq=False)
class FrameWriter:
    """Writes whole frames, behind an answer to the handshake or a pong that still waits.

    Attributes:
        paused: whether the transport still holds something, so that no more should be written.
        answer: to the handshake; written before, and with, whatever is written next.
        pong: the same; the newest one only.
    """

    _transport: asyncio.Transport
    paused: bool = False
    answer: bytes = b""
    pong: bytes = b""

    @property
    def clear(self) -> bool:
        """Whether nothing waits: the socket may be written to past the transport."""
        return not (self.paused or self.answer or self.pong or self._transport.is_closing())

    @property
    def fd(self) -> int:
        """The socket's descriptor; negative where it cannot be written to."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or is_ssl(self._transport):
            return -1
        # A transport closes its descriptor after `connection_lost` only.
        return int(sock.fileno())

    @property
    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes | memoryview = b"") -> None:
        """Write what waits, and `data` behind it."""
        if self.answer:
            data, self.answer = self.answer + bytes(data), b""
        if self.pong:
            # Whole frames follow: nobody writes past this transport while a pong waits (`clear`).
            data, self.pong = self.pong + bytes(data), b""
        self._transport.write(data)
