"""`/ws`: who is let in, as a bare ASGI application."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers

from services.common.wire import encode
from services.gateway.admission.addresses import Guessing
from services.gateway.admission.auth import Seat, offered_key
from services.gateway.clients.dependencies import connections_taken
from services.gateway.clients.session import Session
from services.gateway.lifecycle import Gateway
from services.gateway.protocol import (
    BROKER_UNAVAILABLE,
    COMMAND_RATE,
    CONNECTION_QUOTA,
    DRAINING,
    MAX_MESSAGE_BYTES,
    ORIGIN_DENIED,
    SUBPROTOCOL,
    TOO_LARGE,
    Problem,
)
from services.gateway.ratelimit import retry_after_ms
from services.gateway.websocket.asgi import AsgiTransport, Receive, Send
from services.gateway.websocket.connection import WebSocketConnection
from services.gateway.websocket.ends import EXTENSION

Scope = dict[str, Any]
# What a client is told whose message was so large that it was not even read.
_TOO_LARGE = Problem(TOO_LARGE, f"messages have at most {MAX_MESSAGE_BYTES} bytes; closing")
TOO_LARGE_MESSAGE = encode({"type": "error", **_TOO_LARGE.body()})


class Endpoint:
    """Decides on a handshake and hands the connection to a session.

    On our own server the call is over then, and the transport calls the session back. On any other
    it lasts as long as the connection.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        await receive()
        headers = Headers(scope=scope)
        key = offered_key(headers, _without_key(scope))
        seat = Seat(gateway.parts.places)
        problem = self._refusal(headers) or self._seated(seat, key, scope, headers)
        if problem is not None:
            code = str(problem[1].code.code)
            gateway.metrics.errors.labels(code).inc()
            await _refuse(scope, send, *problem)
            return
        begun = False
        try:
            chosen = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
            await send({"type": "websocket.accept", "subprotocol": chosen})
            transport = scope.get("extensions", {}).get(EXTENSION)
            if not isinstance(transport, WebSocketConnection):
                transport = AsgiTransport(receive, send)
            session = Session(gateway.parts, transport, seat, gateway)
            gateway.joined(session)
            begun = True
            session.begin(key_refused=key is not None and seat.grant is None)
            if isinstance(transport, AsgiTransport):
                await transport.run(session)
            else:
                transport.hand_over(session)
        finally:
            if not begun:
                seat.release()

    def _refusal(self, headers: Headers) -> tuple[int, Problem] | None:
        """Why a handshake is answered by an HTTP error instead of an upgrade."""
        gateway, settings = self._gateway, self._gateway.settings
        if gateway.draining:
            return 503, Problem(DRAINING, "this gateway is going away; connect again")
        if not gateway.open:
            return 503, Problem(BROKER_UNAVAILABLE, "the log was not reached yet")
        if len(gateway.sessions) >= settings.ws_max_connections:
            message = f"{len(gateway.sessions)} connections are open, no more are taken"
            return 503, Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
        if settings.allowed_origins:
            origin = headers.get("origin")
            if origin and origin not in settings.allowed_origins:
                return 403, Problem(ORIGIN_DENIED, "this origin is not allowed")
        return None

    def _seated(
        self, seat: Seat, key: str | None, scope: Scope, headers: Headers
    ) -> tuple[int, Problem] | None:
        """Give the connection its place by its address and the key it came with, if that is one."""
        parts, settings = self._gateway.parts, self._gateway.settings
        # Who asks for no key and limits no address need not know it: it is a system call.
        counted = not parts.keys.open or settings.ws_max_connections_per_address > 0
        if counted:
            seat.address = parts.proxies.client(_peer(scope), headers.getlist("x-forwarded-for"))
        try:
            grant = parts.grant_of(key, seat.address)
        except Guessing as guessing:
            parts.metrics.http_was_refused("key_guesses")
            wait_ms = retry_after_ms(guessing.wait_s)
            return 429, Problem(COMMAND_RATE, str(guessing), retry_after_ms=wait_ms)
        if counted:
            admitted = parts.door.acquire(seat.address, keyless=grant is None)
            if isinstance(admitted, str):
                parts.metrics.http_was_refused(admitted)
                message = "no more connections are taken without a key, or from this address"
                return 503, Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
            seat.door_pass = admitted
        if grant is None or seat.acquire(grant):
            return None
        seat.release()
        return 503, connections_taken(grant)


class Nowhere:
    """Any other path: a handshake there is answered as any request is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": "not_found"})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
        body = b"the WebSocket is at /ws"
        await send({"type": "websocket.http.response.body", "body": body})


def _peer(scope: Scope) -> str:
    transport = scope.get("extensions", {}).get(EXTENSION)
    if isinstance(transport, WebSocketConnection):
        return transport.peer
    client = scope.get("client")
    return str(client[0]) if client else ""


def _without_key(scope: Scope) -> str:
    """The query; `api_key` is taken out of the scope, since servers log what they accept."""
    query: bytes = scope["query_string"]
    text = query.decode("latin-1")
    if b"api_key" in query:
        rest = [(n, v) for n, v in parse_qsl(text, keep_blank_values=True) if n != "api_key"]
        scope["query_string"] = urlencode(rest).encode("ascii")
    return text


async def _refuse(scope: Scope, send: Send, status: int, problem: Problem) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        body = json.dumps({"type": "error", **problem.body()}).encode()
        headers = [(b"content-type", b"application/json")]
        start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        code = 1013 if status in (429, 503) else 1008
        await send({"type": "websocket.close", "code": code, "reason": problem.code.name})
