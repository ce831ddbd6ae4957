"""A handshake that the application is deciding on."""

from __future__ import annotations

from typing import Any

from services.gateway.websocket.rfc6455.handshake import Header, subprotocols
from services.gateway.websocket.server_context import ServerContext

# Under this name the connection itself is in the scope's `extensions`.
EXTENSION = "mdf.transport"


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

    __slots__ = ("accept_key", "deciding", "early", "extensions")

    def __init__(self, accept_key: bytes, early: bytes) -> None:
        self.accept_key = accept_key
        self.early = [early] if early else []
        self.extensions: list[Header] = []
        self.deciding = False


def websocket_scope(
    context: ServerContext, request: dict[str, Any], connection: object
) -> dict[str, Any]:
    """The ASGI scope of a WebSocket, from that of its request."""
    return {
        "type": "websocket",
        "asgi": {"version": context.config.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if request["scheme"] == "https" else "ws",
        "server": request["server"],
        "client": request["client"],
        "root_path": request["root_path"],
        "path": request["path"],
        "raw_path": request["raw_path"],
        "query_string": request["query_string"],
        "headers": request["headers"],
        "subprotocols": subprotocols(request["headers"]),
        "state": context.app_state.copy(),
        "extensions": {"websocket.http.response": {}, EXTENSION: connection},
    }
