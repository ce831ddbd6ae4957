"""The socket under a WebSocket: frames straight to and from the transport.

FastAPI routes the handshake and the endpoint decides on it by ASGI. Then the endpoint lets a
listener take over, and returns: from there on no task, no queue and nothing of the request is kept
for a connection. `scope["extensions"]["mdf.transport"]` is the connection; any other server has
none, and there `AsgiTransport` serves.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from services.gateway.admission.addresses import Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.admission.refusals import Refusals
from services.gateway.protocol import MAX_MESSAGE_BYTES, TOO_LARGE
from services.gateway.ratelimit import TokenBucket
from services.gateway.websocket import extensions, handshake
from services.gateway.websocket.asgi_call import AsgiCall, UpgradableTransport
from services.gateway.websocket.frames import text_frame
from services.gateway.websocket.handshake import Header, Refused
from services.gateway.websocket.inbound import (
    BINARY,
    CLOSE,
    MAX_FRAGMENTS,
    NO_CODE,
    PING,
    POLICY,
    PONG,
    TOO_BIG,
    Inbound,
    Receiver,
)
from services.gateway.websocket.keepalive import Keepalive, Pinged
from services.gateway.websocket.transport import TransportListener

EXTENSION = "mdf.transport"
# Messages up to this size are read, refused with an error and survived; larger ones end the
# connection (1009), since reading them would let strangers fill the memory.
MAX_READ_BYTES = 1024 * 1024
# Data the kernel holds unsent for one client; by default it would take megabytes for a stuck one.
# Set on the listening socket, from which connections have it.
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16 * 1024),)
# For a listener that other processes have on the same port too.
SHARED_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
# How long a client that was sent a close frame has for its own.
_CLOSE_S = 10.0
# How long what a client still sends is thrown away, so that it can read why it was closed: a
# socket closed over unread data is reset, and what was written last is lost.
LINGER_S = 2.0
# What is read of one connection in one turn of the event loop, in bytes as `Inbound` counts them:
# about a millisecond's work, whatever the frames are.
_TURN_COST = 64 * 1024
# What a client may still send after its connection's close frame: so much is looked through for
# its own close frame, and so much more is thrown away unseen.
_CLOSING_BYTES = 64 * 1024
_LINGERING_BYTES = 16 * 1024 * 1024
# First words of sockets that are heard in a turn: each is a tenth of a millisecond's work. And
# requests over HTTP that are begun in one: each is a millisecond's, or more.
_HEARD_A_TURN = 20
_REQUESTS_A_TURN = 2
# Control frames that may come at once, in seconds of the rate that is allowed.
_CONTROL_BURST_S = 10
_NONE: list[Header] = []
_UPGRADING, _OPEN, _CLOSING, _LINGERING, _CLOSED = range(5)


@dataclass(slots=True)
class Silent:
    """Connections that have said nothing yet."""

    count: int = 0


class TurnQueue:
    """What connections have to say, heard a little in each turn of the event loop, in order.

    Args:
        most: how many are heard in a turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._heard = 0
        self._scheduled = False

    def add(self, hear: Callable[[], None]) -> None:
        """AsgiCall it now if there is room in this turn; else in a later one."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._heard < self._most and not self._waiting:
            self._heard += 1
            hear()
        else:
            self._waiting.append(hear)

    def _next_turn(self) -> None:
        self._heard = 0
        while self._waiting and self._heard < self._most:
            self._heard += 1
            self._waiting.popleft()()
        self._scheduled = self._heard > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_turn)


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What all connections of a listener have in common.

    Attributes:
        max_bytes: of a message.
        deflate: whether clients that ask for permessage-deflate get it.
        control_per_s: pings, and pongs that nobody asked for, a second of one connection, on
            average; ten times as many at once.
        message_s: how long a message may take from its first byte to its last.
        proxies: whose word on where a client comes from is taken.
        limits: of the connections that speak HTTP.
        most_silent: connections at a time that have said nothing yet.
    """

    config: Config
    state: ServerState
    app_state: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    keepalive: Keepalive
    max_bytes: int
    deflate: bool
    control_per_s: float = 20
    message_s: float = 10
    proxies: Proxies = field(default_factory=lambda: Proxies(()))
    limits: HttpLimits = field(default_factory=lambda: HttpLimits(1000, 64 * 1024 * 1024, 20))
    refusals: Refusals = field(default_factory=lambda: Refusals(time.monotonic))
    most_silent: int = 10_000
    silent: Silent = field(default_factory=Silent)
    arrivals: TurnQueue = field(default_factory=lambda: TurnQueue(_HEARD_A_TURN))
    requests: TurnQueue = field(default_factory=lambda: TurnQueue(_REQUESTS_A_TURN))
    max_fragments: int = MAX_FRAGMENTS


class WebSocketConnection(asyncio.Protocol, UpgradableTransport, Receiver, Pinged):
    """One WebSocket; takes over the transport of an HTTP connection that asks for an upgrade."""

    __slots__ = (
        "_answer",
        "_control",
        "_deciding",
        "_deflated",
        "_early",
        "_ended",
        "_extensions",
        "_held",
        "_ignored",
        "_inbound",
        "_key",
        "_listener",
        "_message_timer",
        "_messages",
        "_paused",
        "_pong",
        "_reading",
        "_shared",
        "_state",
        "_timer",
        "transport",
    )

    def __init__(self, shared: ServerContext, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        self._key = b""
        # To the handshake; written together with what the application says at once.
        self._answer = b""
        self._deciding = False
        # What was agreed upon, until it is answered; then whether frames may be compressed.
        self._extensions = _NONE
        self._deflated = False
        self._early: list[bytes] | None = None
        self._shared = shared
        self._inbound = self._reader(deflate=False)
        self._listener: TransportListener | None = None
        self._state = _UPGRADING
        self._paused = False
        # Whether whoever listens wants to be told more; whether the transport reads nothing.
        self._reading = True
        self._held = False
        self._pong: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Made by the first control frame that is not an answer: most clients send none.
        self._control: TokenBucket | None = None
        # While a message is incomplete: when it is too late, and how many were whole before it.
        self._message_timer: asyncio.TimerHandle | None = None
        self._messages = 0
        # Why it is over; what was said first.
        self._ended = ""
        # Bytes that came after the end.
        self._ignored = 0

    def _reader(self, *, deflate: bool) -> Inbound:
        shared = self._shared
        return Inbound(shared.max_bytes, deflate=deflate, max_fragments=shared.max_fragments)

    # ------------------------------------------------------------------ the handshake

    def upgrade(self, request: dict[str, Any], early: bytes) -> None:
        """Answer a request (an ASGI scope of HTTP); `early` came behind it already."""
        headers: list[Header] = request["headers"]
        self._shared.state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own
        # Who writes past the transport has to know when anything at all waits in it.
        self.transport.set_write_buffer_limits(high=0)
        try:
            self._key = handshake.accept_key(request["method"], request["http_version"], headers)
        except Refused as refused:
            self.refuse(refused.status, list(refused.headers), f"{refused.reason}\n".encode())
            return
        if self._shared.deflate and (agreed := extensions.agree(headers)) is not None:
            answer, self._deflated = agreed
            self._extensions = [answer]
            self._inbound = self._reader(deflate=True)
        if early:
            self._early = [early]
        scope = self._scope(request)
        call = AsgiCall(self)
        self._listener = call
        self._deciding = True
        # Most endpoints decide at once: such a call never becomes a task that waits for its turn.
        # One that does is the server's to wait for, as with uvicorn's own protocols.
        task = asyncio.Task(
            call.run(self._shared.config.loaded_app, scope),
            loop=self._shared.loop,
            eager_start=True,
        )
        self._deciding = False
        if self._answer and not self.transport.is_closing():
            self._write(b"")
        if not task.done():
            self._shared.state.tasks.add(task)
            task.add_done_callback(self._shared.state.tasks.discard)

    def _scope(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "websocket",
            "asgi": {"version": self._shared.config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if request["scheme"] == "https" else "ws",
            "server": request["server"],
            "client": request["client"],
            "root_path": request["root_path"],
            "path": request["path"],
            "raw_path": request["raw_path"],
            "query_string": request["query_string"],
            "headers": request["headers"],
            "subprotocols": handshake.subprotocols(request["headers"]),
            "state": self._shared.app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }

    def accept(self, subprotocol: str | None, headers: list[Header]) -> None:
        if self._state != _UPGRADING:
            return
        headers = [*self._shared.state.default_headers, *self._extensions, *headers]
        if subprotocol:
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self._state = _OPEN
        self._answer = handshake.upgrade(self._key, headers)
        self._key, self._extensions = b"", _NONE
        if not self._deciding:
            self._write(b"")
        self._shared.keepalive.add(self)
        if self._early is not None:
            # When the application has decided who listens.
            self._shared.loop.call_soon(self._read_early)

    def _read_early(self) -> None:
        early, self._early = self._early, None
        for data in early or ():
            self.data_received(data)
        self.resume_reading()

    def refuse(self, status: int, headers: list[Header], body: bytes) -> None:
        if self._state == _UPGRADING:
            headers = [*self._shared.state.default_headers, *headers]
            self.transport.write(handshake.refusal(status, headers, body))
            self._linger("client")

    def hand_over(self, listener: TransportListener) -> None:
        call, self._listener = self._listener, listener
        if isinstance(call, AsgiCall):
            call.detach()
        if self._paused:
            # What was written before it came waits; it has to know from the beginning.
            listener.on_pause()
        if self._state != _OPEN:
            self._gone("client")

    # ------------------------------------------------------------------ writing

    @property
    def ready(self) -> bool:
        return self._state == _OPEN and not (
            self._paused or self._answer or self._pong or self.transport.is_closing()
        )

    @property
    def fd(self) -> int:
        sock = self.transport.get_extra_info("socket")
        if sock is None or is_ssl(self.transport):
            return -1
        # A transport closes its descriptor after `connection_lost` only.
        return int(sock.fileno())

    @property
    def deflated(self) -> bool:
        return self._deflated

    def write(self, frames: bytes | memoryview) -> bool:
        # Nothing may follow a close frame, and nothing may come before the handshake's answer.
        if self._state != _OPEN or self.transport.is_closing():
            return False
        self._write(frames)
        return True

    def _write(self, data: bytes | memoryview) -> None:
        if self._answer:
            data, self._answer = self._answer + bytes(data), b""
        if self._pong is not None:
            # Whole frames follow: nobody writes past this transport while a pong waits (`ready`).
            data, self._pong = self._pong + bytes(data), None
        self.transport.write(data)

    @property
    def peer(self) -> str:
        return peer_of(self.transport)

    @property
    def ended(self) -> str:
        return self._ended

    def write_binary(self, data: bytes) -> bool:
        return self.write(_frame(BINARY, data))

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def buffered(self) -> int:
        return self.transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._paused = True
        if self._listener is not None:
            self._listener.on_pause()

    def resume_writing(self) -> None:
        self._paused = False
        # First what waits for the client: its taking that is what it is judged by. A pong goes
        # with it; alone, it would be all that a client who pings and never reads is ever sent.
        if self._listener is not None:
            self._listener.on_resume()
        if self._pong is not None and not self._paused:
            self.write(b"")

    # ------------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        if self._state == _UPGRADING or self._early is not None:
            # RFC 6455, 4.1: a client waits for the answer. One that does not is not lost for it.
            self._early = [*(self._early or ()), data]
            self.pause_reading()
        elif self._state == _OPEN:
            self._read_on(self._inbound.feed(data, self, _TURN_COST))
        elif self._state in (_CLOSING, _LINGERING):
            self._ignore(data)

    def _ignore(self, data: bytes) -> None:
        """After the end: look for the client's own close frame for a while, then at nothing."""
        self._ignored += len(data)
        if self._ignored > _LINGERING_BYTES:
            # It is not reading either; what it reads of the end is its own affair now.
            self._hold()
        elif self._state == _CLOSING and self._ignored <= _CLOSING_BYTES:
            self._read_on(self._inbound.feed(data, self, _TURN_COST))

    def _read_on(self, done: bool) -> None:
        """What was to be read in this turn is: whatever is left waits for the next one."""
        if self._state == _OPEN:
            self._time_message()
        if done:
            if self._reading:
                self._release()
        else:
            self._hold()
            if not self._inbound.stopped:
                self._shared.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if self._state in (_OPEN, _CLOSING) and not self._inbound.stopped:
            self._read_on(self._inbound.go_on(self, _TURN_COST))

    def _time_message(self) -> None:
        if self._message_timer is None and self._inbound.incomplete:
            self._messages = self._inbound.messages
            self._message_timer = self._shared.loop.call_later(
                self._shared.message_s, self._message_overdue
            )

    def _message_overdue(self) -> None:
        self._message_timer = None
        if self._state != _OPEN or not self._inbound.incomplete:
            return
        if self._inbound.messages == self._messages and self._reading and not self._held:
            self.on_violation(POLICY, "a message that did not end in time")
        else:
            # Another message by now; or it is not the client's fault, who is not read from.
            self._time_message()

    def pause_reading(self) -> None:
        if self._reading and self._state in (_UPGRADING, _OPEN):
            self._reading = False
            self._inbound.stopped = True
            self._hold()

    def resume_reading(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self._inbound.stopped = False
            if self._inbound.incomplete:
                # Perhaps only half a frame; reading on finds out.
                self._shared.loop.call_soon(self._next_turn)
            else:
                self._release()

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self.transport.pause_reading()

    def _release(self) -> None:
        if self._held and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def on_text(self, text: str) -> None:
        if self._state == _OPEN and self._listener is not None:
            self._listener.on_text(text)

    def on_binary(self, data: bytes) -> None:
        if self._state == _OPEN and self._listener is not None:
            self._listener.on_binary(data)

    def on_ping(self, payload: bytes) -> None:
        if self._state != _OPEN or not self._control_frame():
            return
        if not self._paused:
            self.write(_frame(PONG, payload))
        else:
            # RFC 6455, 5.5.3: the newest ping alone may be answered. One who pings and does not
            # read would fill the memory with answers otherwise.
            self._pong = _frame(PONG, payload)

    def on_pong(self, payload: bytes) -> None:
        if self.ping and payload == struct.pack("!I", self.ping):
            self.ping = 0
        elif self._state == _OPEN:
            self._control_frame()

    def _control_frame(self) -> bool:
        """Count one that was not asked for; False: it was one too many, and the connection ends."""
        now, rate = self._shared.loop.time(), self._shared.control_per_s
        if self._control is None:
            self._control = TokenBucket(rate, max(1.0, _CONTROL_BURST_S * rate), now)
        if self._control.take(now) > 0:
            self._inbound.end()
            self.on_violation(POLICY, "too many control frames")
            return False
        return True

    # ------------------------------------------------------------------ the end

    def close(self, code: int, reason: str) -> None:
        if self._state != _OPEN:
            return
        if self.transport.is_closing():
            self._gone("client")
            return
        self._write(_close_frame(code, reason))
        self._state = _CLOSING
        self.resume_reading()
        self._deadline(_CLOSE_S)
        self._gone("service_restart")

    def on_close(self, _code: int, payload: bytes) -> None:
        if self._state == _OPEN:
            self._write(_frame(CLOSE, payload))
        self._linger("client")

    def on_violation(self, code: int, reason: str) -> None:
        if self._state == _OPEN:
            if code == TOO_BIG:
                self._write(text_frame(_TOO_LARGE))
            self._write(_close_frame(code, reason))
        self._linger("abuse" if code == POLICY else "violation")

    def send_ping(self, payload: bytes) -> None:
        self.write(_frame(PING, payload))

    def ping_overdue(self) -> bool:
        if self._paused:
            # The ping itself still waits here behind data: that is a slow reader, and for those
            # the session has its own measure.
            return False
        self._ended = "ping_timeout"
        self.close(1011, "no pong in time")
        return True

    def shutdown(self) -> None:
        """The server goes away; by then everyone was told."""
        if self._state == _UPGRADING:
            self.refuse(503, [], b"")
        elif self._state == _OPEN:
            self._write(_close_frame(1012, ""))
            self._state = _CLOSING
            self._gone("service_restart")
        self.transport.close()

    def eof_received(self) -> None:
        """Nothing more comes; the transport closes itself when this returns."""

    def connection_lost(self, _exc: Exception | None) -> None:
        self._state = _CLOSED
        self._shared.state.connections.discard(self)
        self._cancel_timer()
        # Whoever waits for room is let go; what it writes then is refused.
        self._paused = False
        self._gone("client")

    def _linger(self, reason: str) -> None:
        """Everything was said: let the client read it, and end first (RFC 6455, 7.1.1)."""
        self._state = _LINGERING
        self._inbound.end()
        self.resume_reading()
        self._release()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._deadline(LINGER_S)
        self._gone(reason)

    def _gone(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._shared.keepalive.remove(self)
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.on_closed()

    def _deadline(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self._shared.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        if self.buffered:
            self.transport.abort()
        else:
            self.transport.close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end; empty when it is not known."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def _frame(opcode: int, payload: bytes) -> bytes:
    head = text_frame(payload)
    return bytes((0x80 | opcode,)) + head[1:]


def _close_frame(code: int, reason: str) -> bytes:
    if code == NO_CODE:
        return _frame(CLOSE, b"")
    # A control frame has at most 125 bytes, and what is cut must still be text.
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return _frame(CLOSE, struct.pack("!H", code) + text)


_TOO_LARGE = msgspec.json.encode(
    {
        "type": "error",
        "code": TOO_LARGE.code,
        "name": TOO_LARGE.name,
        "message": f"messages have at most {MAX_MESSAGE_BYTES} bytes; closing",
        "retry": TOO_LARGE.retry,
    }
)
