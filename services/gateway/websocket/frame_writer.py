"""What a WebSocket writes: through its transport in order, or past it where nothing waits in it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.utils import is_ssl


class FrameWriter:
    """Writes whole frames, behind an answer to the handshake or a pong that still waits.

    Attributes:
        paused: whether the transport still holds something, so that no more should be written.
    """

    __slots__ = ("_answer", "_pong", "_transport", "paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.paused = False
        # To the handshake; written together with what the application says at once.
        self._answer = b""
        self._pong: bytes | None = None

    def prepare_answer(self, answer: bytes) -> None:
        """Have the handshake's answer written before, and with, whatever is written next."""
        self._answer = answer

    def prepare_pong(self, pong: bytes) -> None:
        """Have it written with what is written next, instead of one that waits already."""
        self._pong = pong

    @property
    def answering(self) -> bool:
        return bool(self._answer)

    @property
    def ponging(self) -> bool:
        return self._pong is not None

    @property
    def clear(self) -> bool:
        """Whether nothing waits: the socket may be written to past the transport."""
        return not (
            self.paused or self._answer or self._pong is not None or self._transport.is_closing()
        )

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
        if self._answer:
            data, self._answer = self._answer + bytes(data), b""
        if self._pong is not None:
            # Whole frames follow: nobody writes past this transport while a pong waits (`clear`).
            data, self._pong = self._pong + bytes(data), None
        self._transport.write(data)
