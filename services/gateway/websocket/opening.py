"""A handshake that the application is deciding on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from services.gateway.websocket.rfc6455.handshake import Header, subprotocols
from services.gateway.websocket.server_context import ServerContext

# Under this name the connection itself is in the scope's `extensions`.
EXTENSION = "mdf.transport"


@dataclass(slots=True, eq=False)
class Opening:
    """What is kept from the request to the answer, and until what came early was read.

    Attributes:
        accept_key: the value of `Sec-WebSocket-Accept`.
        early: bytes that came before the answer. RFC 6455, 4.1: a client waits for the answer.
            One that does not is not lost for it.
        extensions: the headers of what was agreed upon.
        deciding: whether the application's call is under way in this very turn, so that what it
            says next goes out together with the answer.
    """

    accept_key: bytes
    early: list[bytes]
    extensions: list[Header] = field(default_factory=list)
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
