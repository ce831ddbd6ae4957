"""A child process that serves a TCP port: start, wait until it answers, stop, kill, restart."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from tools.embedded.ports import free_port

# How soon a hanging start is told, not how fast it has to be: one that ended is told at once.
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 10.0
_PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """The server did not come up; `log_tail` holds its last lines."""

    def __init__(self, name: str, reason: str, log_tail: str) -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} {reason}\n{log_tail}".rstrip())


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel kill this child when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def terminate(process: asyncio.subprocess.Process | None, patience_s: float) -> None:
    """SIGTERM, then SIGKILL after `patience_s`. Nothing happens when it does not run."""
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(patience_s):
            await process.wait()
    except TimeoutError:
        await kill(process)


async def kill(process: asyncio.subprocess.Process | None) -> None:
    """SIGKILL, as a crash would. Nothing happens when it does not run."""
    if process is None or process.returncode is not None:
        return
    process.kill()
    await process.wait()


class EmbeddedServer(ABC):
    """Base of the embedded servers.

    Keeps its port and its data folder over `stop`/`kill` and `start`, so a test can take a server
    away and bring it back. `close` (or leaving the block) ends it and removes a folder of its own.
    """

    name: str

    def __init__(self, *, port: int | None = None, data_dir: Path | None = None) -> None:
        self.host = "127.0.0.1"
        self._asked_port = port
        self.port = port or 0
        self._own_dir = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix=f"mdf-{self.name}-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = self.data_dir / f"{self.name}.log"
        self._process: asyncio.subprocess.Process | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The argument vector that serves `self.port`."""

    @property
    @abstractmethod
    def url(self) -> str: ...

    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> Self:
        """Start it and return once its port answers.

        Raises:
            ServerFailed: it ended or did not answer in 60 s.
        """
        fresh = self.port == 0
        for attempt in (1, 2, 3):
            if fresh:
                self.port = free_port(self.host)
            try:
                await self._start_once()
            except ServerFailed:
                # Somebody may have taken the free port in between; a given port is not changed.
                if not fresh or attempt == 3:
                    raise
            else:
                break
        return self

    async def _start_once(self) -> None:
        if await self._answers():
            # Without this, somebody else's server on the port would be taken for ours.
            raise ServerFailed(self.name, f"port {self.port}: address already in use", "")
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data_dir,
                # A terminal's Ctrl-C reaches the whole process group; the owner decides the order.
                start_new_session=True,
                preexec_fn=die_with_parent,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        while True:
            if self._process.returncode is not None:
                raise ServerFailed(
                    self.name, f"ended with status {self._process.returncode}", self.log_tail()
                )
            if await self._answers():
                return
            if asyncio.get_running_loop().time() > deadline:
                await self.kill()
                raise ServerFailed(
                    self.name, f"did not answer within {_START_TIMEOUT:.0f} s", self.log_tail()
                )
            await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            _reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    def log_tail(self, lines: int = 20) -> str:
        """The last lines the server wrote."""
        if not self.log_file.exists():
            return ""
        text = self.log_file.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def wait(self) -> int:
        """Wait until the process ends; its exit status."""
        if self._process is None:
            raise ServerFailed(self.name, "was never started", "")
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after 10 s. Nothing happens when it does not run."""
        await terminate(self._process, _STOP_TIMEOUT)

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        await kill(self._process)

    async def close(self) -> None:
        await self.stop()
        if self._own_dir:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
