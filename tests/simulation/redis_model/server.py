"""The model as a server: connections, and who waits for what."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

from tests.simulation.redis_model.admin import ANSWERED, Admin
from tests.simulation.redis_model.answers import Answer, Blocked, Refused, whole
from tests.simulation.redis_model.engine import Engine, Session
from tests.simulation.redis_model.wire import Commands, ProtocolViolation, written

# How often an append-only file is synced (`appendfsync everysec`), in seconds.
_SYNCED_EVERY_S = 1.0


class _Client(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._commands = Commands(int(server.engine.config[b"proto-max-bulk-len"]))
        self._waiting: deque[list[bytes]] = deque()
        self.admin = Admin(server.engine, server.next_number())
        self.session = Session()
        self.blocked: Blocked | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no asyncio.Transport by type, but by what they do.
        self.transport = cast("asyncio.Transport", transport)
        self._server.clients[self] = None

    def connection_lost(self, error: Exception | None) -> None:
        self.stop_waiting()
        self._server.clients.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._commands.largest = int(self._server.engine.config[b"proto-max-bulk-len"])
        try:
            for command in self._commands.feed(data):
                self._waiting.append(command)
                self.go_on()
        except ProtocolViolation as violation:
            self.answer(Refused(violation.said))
            self.transport.close()

    def go_on(self) -> None:
        """Obey what came, unless an answer is waited for."""
        while self._waiting and self.blocked is None:
            self._server.obey(self, self._waiting.popleft())

    def answer(self, answer: Answer) -> None:
        self.transport.write(written(answer, self.admin.version))

    def wait(self, blocked: Blocked) -> None:
        """Answer later: when there is something, or nothing in time."""
        self.blocked = blocked
        self._server.wait_last(self)
        if self._timer is None and blocked.timeout_ms:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(blocked.timeout_ms / 1000, self.end_waiting, None)

    def stop_waiting(self) -> None:
        self.blocked = None
        self._server.wait_no_more(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end_waiting(self, answer: Answer) -> None:
        self.stop_waiting()
        self.answer(answer)
        self.go_on()


class ModelServer:
    """One server; `engine` is what its disk holds, and stays when it is killed."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.clients: dict[_Client, None] = {}
        # Who waits for something to read, in the order in which they are served.
        self._blocked: dict[_Client, None] = {}
        self.port = 0
        self._server: asyncio.AbstractServer | None = None
        self._numbers = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def start(self, host: str = "127.0.0.1", loading_s: float = 0.0) -> None:
        """Listen, on the port that it had before if it had one; `loading_s` is how long it reads
        its data before it answers more than that.
        """
        loop = asyncio.get_running_loop()
        self.engine.restart()
        self.engine.loading = loading_s > 0
        self._server = await loop.create_server(lambda: _Client(self), host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        if self.engine.loading:
            loop.call_later(loading_s, setattr, self.engine, "loading", False)

    # -- ends

    def kill(self) -> None:
        """End as SIGKILL does: what was written stays, what was asked is forgotten."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def lose_unsynced(self) -> None:
        """Forget what the disk had not synced when the machine lost its power."""
        now_s = time.monotonic()
        self.engine.keep_until(now_s - now_s % _SYNCED_EVERY_S)

    def lose_last(self, seconds: float) -> None:
        """Forget what a replica did not have yet that takes its place."""
        self.engine.keep_until(time.monotonic() - seconds)

    def be_full(self, *, full: bool) -> None:
        """Have no memory for anything new, or have it again."""
        self.engine.config[b"maxmemory"] = b"1" if full else b"0"

    def become(self, *, read_only: bool) -> None:
        """Be a replica, or a primary again; connections stand, and who waits is told."""
        self.engine.read_only = read_only
        if read_only:
            said = (
                "force unblock from blocking operation, instance state changed (master -> replica?)"
            )
            for client in list(self.clients):
                if client.blocked is not None:
                    client.end_waiting(Refused(f"UNBLOCKED {said}"))

    def cut(self) -> None:
        """Cut all connections."""
        for client in list(self.clients):
            client.stop_waiting()
            client.transport.abort()
        self.clients.clear()

    # -- commands

    def obey(self, client: _Client, words: Sequence[bytes]) -> None:
        name = words[0].upper()
        if not client.admin.admitted and name not in (b"HELLO", b"AUTH"):
            client.answer(Refused("NOAUTH Authentication required."))
        elif name in ANSWERED:
            client.answer(client.admin.answer(name, words[1:]))
        elif name == b"WAIT":
            self._wait_for_replicas(client, words[1:])
        else:
            self._run(client, words)
            self._serve_waiting()

    def _run(self, client: _Client, words: Sequence[bytes]) -> None:
        answer = self.engine.run(client.session, words, time.time_ns() // 1000, time.monotonic())
        if isinstance(answer, Blocked):
            client.wait(answer)
        elif client.blocked is not None:
            client.end_waiting(answer)
        else:
            client.answer(answer)

    def _wait_for_replicas(self, client: _Client, arguments: Sequence[bytes]) -> None:
        """There are none: whoever wants some is told so when it has waited."""
        wanted, timeout_ms = map(whole, arguments)
        if wanted <= 0:
            client.answer(0)
        else:
            client.wait(Blocked((), (), 0, for_a_group=False))
            loop = asyncio.get_running_loop()
            loop.call_later(timeout_ms / 1000, client.end_waiting, 0)

    def wait_last(self, client: _Client) -> None:
        self.wait_no_more(client)
        self._blocked[client] = None
        self.engine.blocked = len(self._blocked)

    def wait_no_more(self, client: _Client) -> None:
        self._blocked.pop(client, None)
        self.engine.blocked = len(self._blocked)

    def _serve_waiting(self) -> None:
        """Run again what waits for keys of which there are news."""
        news = self.engine.database.news
        while news:
            key = next(iter(news))
            added = news.pop(key)
            for client in list(self._blocked):
                blocked = client.blocked
                if blocked is not None and key in blocked.keys and (added or blocked.for_a_group):
                    self._run(client, blocked.again)
