"""What all connections of one listener have in common: limits, counters, the loop, the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.admission.refusals import Refusals
from services.gateway.websocket.handshake_tasks import HandshakeTasks
from services.gateway.websocket.rfc6455.inbound import MAX_FRAGMENTS
from services.gateway.websocket.rfc6455.keepalive import Keepalive
from services.gateway.websocket.turn_queue import TurnQueue

# Messages up to this size are read, so that the application can answer those that it refuses;
# larger ones end the connection (1009), since reading them would let strangers fill the memory.
MAX_READ_BYTES = 1024 * 1024
# Sockets whose first bytes are looked at in a turn: each is a tenth of a millisecond's work. And
# requests over HTTP that are begun in one: each is a millisecond's, or more.
_FIRST_BYTES_A_TURN = 20
_REQUESTS_A_TURN = 2


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one WebSocket may send.

    Attributes:
        max_bytes: of a message; a larger one ends the connection with 1009.
        max_fragments: of a message; one more ends the connection with 1008.
        control_per_s: pings, and pongs that nobody asked for, a second of one connection, on
            average; ten times as many at once.
        message_s: how long a message may take from its first byte to its last.
        too_large: the text message that is sent before a close with 1009; empty: none is.
    """

    max_bytes: int = MAX_READ_BYTES
    max_fragments: int = MAX_FRAGMENTS
    control_per_s: float = 20
    message_s: float = 10
    too_large: bytes = b""


@dataclass(slots=True)
class SilentConnections:
    """Connections that have sent nothing yet."""

    most: int = 10_000
    count: int = 0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Of one listener.

    Attributes:
        deflate: whether clients that ask for permessage-deflate get it.
        reading: what one WebSocket may send.
        handshakes: owner of the ASGI calls that decide on handshakes.
        proxies: whose word on where a client comes from is taken.
        limits: of the connections that speak HTTP.
        refusals: where refused connections and requests are counted.
        first_bytes: sockets whose first bytes have come.
        requests: HTTP connections with a request to begin.
    """

    config: Config
    state: ServerState
    app_state: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    keepalive: Keepalive
    handshakes: HandshakeTasks
    proxies: Proxies
    limits: HttpLimits
    refusals: Refusals
    reading: ReadLimits = field(default_factory=ReadLimits)
    deflate: bool = False
    silent: SilentConnections = field(default_factory=SilentConnections)
    first_bytes: TurnQueue = field(default_factory=lambda: TurnQueue(_FIRST_BYTES_A_TURN))
    requests: TurnQueue = field(default_factory=lambda: TurnQueue(_REQUESTS_A_TURN))
