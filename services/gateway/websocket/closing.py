"""The last seconds of a WebSocket, in which the client may still read why it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

# How long a client that was sent a close frame has for its own.
CLOSE_S = 10.0
# How long what a client still sends is thrown away, so that it can read why it was closed: a
# socket closed over unread data is reset, and what was written last is lost.
LINGER_S = 2.0
# What a client may still send after its connection's close frame: so much is looked through for
# its own close frame, and so much more is thrown away unseen.
_CLOSING_BYTES = 64 * 1024
_LINGERING_BYTES = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Closing:
    """Ends a transport in time, and counts what still comes; made when a connection closes."""

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None
    # Bytes that came in since.
    received: int = 0

    def end_within(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Close the transport then, whatever was said before; abort it if data waits in it."""
        self.cancel()
        self._timer = loop.call_later(seconds, self._too_late)

    def cancel(self) -> None:
        """The transport has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def looks_for_close_frame(self) -> bool:
        return self.received <= _CLOSING_BYTES

    @property
    def throws_away(self) -> bool:
        """Whether what comes is still read; a client that sends more does not read either."""
        return self.received <= _LINGERING_BYTES

    def _too_late(self) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()
