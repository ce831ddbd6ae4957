"""Plays a transcript against a client that runs as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from market_data_conformance.script import Json, Transcript, difference, message

# How long a client may take to do what it has to, seconds: reconnecting backs off.
PATIENCE_S = 10.0
# And how long it may take to be there at all: a program's start is the machine's business.
START_S = 60.0


class Failed(Exception):
    """The client did not do what the transcript says."""


class Player:
    """One run of one transcript."""

    def __init__(self, case: Transcript) -> None:
        self.case = case
        self.said: list[str] = []
        self.connections: asyncio.Queue[ServerConnection] = asyncio.Queue()
        # Each with when it came, by the event loop's clock.
        self.commands: asyncio.Queue[tuple[float, Json]] = asyncio.Queue()
        self.events: asyncio.Queue[tuple[float, Json]] = asyncio.Queue()
        self._current: ServerConnection | None = None
        self._last_command: Json = {}

    async def play(self) -> None:
        """Play every step.

        Raises:
            Failed: with what was expected, and what came.
        """
        for number, step in enumerate(self.case.steps, 1):
            ((kind, value),) = step.items()
            try:
                async with asyncio.timeout(START_S if self._current is None else PATIENCE_S):
                    await self._step(kind, value)
            except TimeoutError as error:
                raise Failed(f"step {number}: nothing came; expected {json.dumps(step)}") from error
            except ConnectionClosed as error:
                raise Failed(f"step {number}: the client closed the connection") from error
            except Failed as failed:
                raise Failed(f"step {number}: {failed}") from failed

    async def _step(self, kind: str, value: Any) -> None:
        match kind:
            case "accept":
                self._current = await self.connections.get()
            case "command":
                _came, self._last_command = await self.commands.get()
                self._check(value, self._last_command)
            case "event":
                _came, event = await self.events.get()
                self._check(value, event)
            case "nothing_ms":
                await self._nothing(value)
            case "pause_ms":
                await asyncio.sleep(value / 1000)
            case _:
                assert self._current is not None, "accept comes first"
                await self._speak(self._current, kind, value)

    async def _speak(self, socket: ServerConnection, kind: str, value: Any) -> None:
        match kind:
            case "close":
                await socket.close(value)
            case "drop":
                socket.transport.abort()
            case "text":
                await socket.send(value)
            case "batch":
                said = [self._message(*next(iter(item.items()))) for item in value]
                await socket.send(json.dumps(said))
            case _:
                await socket.send(json.dumps(self._message(kind, value)))

    def _message(self, kind: str, value: Any) -> Any:
        if kind == "say":
            return value
        return message(kind, value, self.case.channel, self._last_command)

    def _check(self, expected: Any, found: Json) -> None:
        alternatives = expected if isinstance(expected, list) else [expected]
        reasons = [difference(alternative, found) for alternative in alternatives]
        if all(reasons):
            why = "; or ".join(filter(None, reasons))
            raise Failed(f"{why}; it was {json.dumps(found)}")

    async def _nothing(self, milliseconds: float) -> None:
        ends = _now() + milliseconds / 1000
        await asyncio.sleep(milliseconds / 1000)
        for what, queue in (("sent", self.commands), ("handed out", self.events)):
            for _ in range(queue.qsize()):
                came, found = queue.get_nowait()
                if came < ends:
                    raise Failed(f"it {what} {json.dumps(found)}, expected nothing")
                # A busy machine slept too long: this belongs to a later step.
                queue.put_nowait((came, found))

    async def serve(self, socket: ServerConnection) -> None:
        """The gateway's side of one connection."""
        self.connections.put_nowait(socket)
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                self.commands.put_nowait((_now(), json.loads(frame)))

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """The client's standard output."""
        while line := await reader.readline():
            try:
                self.events.put_nowait((_now(), json.loads(line)))
            except ValueError:
                self.said.append(line.decode(errors="replace").rstrip())


def _now() -> float:
    return asyncio.get_running_loop().time()


async def play(case: Transcript, command: str) -> str | None:
    """Why the client `command` fails this case; None when it passes."""
    player = Player(case)
    async with serve(
        player.serve,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=None,
        close_timeout=1,
        # Offering it is optional; who offers it must be answered.
        select_subprotocol=lambda _socket, offered: next(iter(offered), None),
    ) as server:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**24,
            env={
                **os.environ,
                "URL": f"ws://127.0.0.1:{port}/ws",
                "PRODUCT": "BTC-USD",
                "CHANNEL": case.channel,
            },
        )
        assert process.stdout is not None
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(player.listen(process.stdout))
                try:
                    await player.play()
                except Failed as failed:
                    return "\n    ".join([str(failed), *player.said[-10:]])
                finally:
                    listening.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return None
