"""nats-py's client with a hot path of its own.

Connecting, TLS, credentials, pings and closing are nats-py's. What the server sends goes through
`Frames`, and what is published is written to the transport as it stands. The names with an
underscore are nats-py's own; `tests/test_stream_nats_client.py` fails should they change.
"""

from __future__ import annotations

import json
from typing import Any

from nats import errors
from nats.aio.client import Client

from services.common.stream.nats.wire import Failed, Frames, Handler, RunHandler


class LeanClient(Client):
    """Messages are handed to plain functions, from within the reading task.

    A handler must not wait and keeps its own bounds. What sends raises ConnectionClosedError where
    there is no connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frames = Frames()
        self._ps: Any = self  # the reading task asks it for parse() and reset(), nothing else

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py would go on in the clear, and send user and password so.
        scheme = self._current_server.uri.scheme if self._current_server is not None else ""
        if initial_connection and scheme == "tls" and not info.get("tls_required", False):
            raise errors.Error("nats: tls:// was asked for, and this server speaks without TLS")
        await super()._process_info(info, initial_connection=initial_connection)

    def reset(self) -> None:
        self._frames.reset()

    async def parse(self, data: bytes = b"") -> None:
        """Take what was received.

        Raises:
            ProtocolError: whatever went wrong with it. At anything else nats-py stops reading and
                leaves the connection as if it stood, until its pings find out half a minute later.
        """
        try:
            for line in self._frames.feed(data):
                await self._on_line(line)
        except (errors.ProtocolError, OSError):
            raise
        except Exception as error:
            raise errors.ProtocolError from error

    async def _on_line(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation.upper():
            case b"PING":
                await self._process_ping()
            case b"PONG":
                await self._process_pong()
            case b"INFO":
                await self._process_info(json.loads(rest))
            case b"-ERR":
                await self._process_err(rest.strip().decode(errors="replace").lower())
            case b"+OK":
                pass
            case _:
                raise errors.ProtocolError

    def attach(
        self,
        subject: str,
        handler: Handler,
        failed: Failed | None = None,
        run: RunHandler | None = None,
    ) -> str:
        """Subscribe; answers what `detach` wants. For the handlers see `Frames`."""
        self._sid += 1
        sid = str(self._sid)
        self._frames.handlers[sid] = handler
        if failed is not None:
            self._frames.failed[sid] = failed
        if run is not None:
            self._frames.runs[sid] = run
        self.write(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def detach(self, sid: str) -> None:
        """Unsubscribe what `attach` answered."""
        self._frames.handlers.pop(sid, None)
        self._frames.runs.pop(sid, None)
        self._frames.failed.pop(sid, None)
        self.write(f"UNSUB {sid}\r\n".encode())

    def write(self, frames: bytes) -> None:
        """Send whole frames. Each call is a system call, so join what goes together."""
        if self._transport is None or not self.is_connected:
            raise errors.ConnectionClosedError
        self._transport.write(frames)

    async def drained(self) -> None:
        """Wait while the transport holds more than it wants to; OSError: it broke."""
        if self._transport is None:
            raise errors.ConnectionClosedError
        await self._transport.drain()  # type: ignore[no-untyped-call]  # nats-py left it so
