"""A WebSocket's two ends: a handshake that is being decided on, and the last seconds.

In those the client may still read why it ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from services.gateway.websocket.rfc6455.handshake import Header, subprotocols
from services.gateway.websocket.server_context import ServerContext

# Under this name the connection itself is in the scope's `extensions`.
EXTENSION = "mdf.transport"


@dataclass(slots=True, eq=False)
class Opening:
    """What is kept from the request to the answer, and until what came early was read."""

    accept_key: bytes  # the value of `Sec-WebSocket-Accept`
    # Bytes that came before the answer. RFC 6455, 4.1: a client waits for the answer. One that does
    # not is not lost for it
    early: list[bytes]
    extensions: list[Header] = field(default_factory=list)  # the headers of what was agreed upon
    # Whether the application's call is under way in this very turn, so that what it says next goes
    # out together with the answer
    deciding: bool = False


def request_target(url: bytes, root_path: str) -> dict[str, Any]:
    """The part of an ASGI scope that says what is asked for."""
    raw_path, _, query = url.partition(b"?")
    path = raw_path.decode("latin-1")
    return {
        "path": root_path + (unquote(path) if "%" in path else path),
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
    }


def websocket_scope(
    context: ServerContext, request: dict[str, Any], connection: object
) -> dict[str, Any]:
    """The ASGI scope of a WebSocket, from that of its request."""
    return {
        **request,
        "type": "websocket",
        "asgi": {"version": context.config.asgi_version, "spec_version": "2.4"},
        "scheme": "wss" if request["scheme"] == "https" else "ws",
        "subprotocols": subprotocols(request["headers"]),
        "state": context.app_state.copy(),
        "extensions": {"websocket.http.response": {}, EXTENSION: connection},
    }


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
