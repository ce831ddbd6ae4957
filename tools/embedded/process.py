"""Child processes with a port: start, wait until they answer, stop, kill, restart."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tools.embedded.ports import free_port

# How soon a hanging start is told, not how fast it has to be: one that ended is told at once.
_START_TIMEOUT = 60.0
_TAIL_LINES = 20
_PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """The server did not come up; `log_tail` holds its last lines."""

    def __init__(self, name: str, reason: str, log_tail: str) -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} {reason}\n{log_tail}".rstrip())


def die_with_me() -> Callable[[], None]:
    """A `preexec_fn` by which the kernel kills the child when this process dies (Linux only)."""
    parent = os.getpid()

    def die_with_parent() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The kernel tells of no death before that: one between the fork and here is over.
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return die_with_parent


class ChildDied(Exception):
    """A child process ended by itself; `log_tail` holds its last lines."""

    def __init__(self, name: str, status: int | None, log_tail: str, log_file: Path) -> None:
        self.name = name
        self.status = status
        self.log_tail = log_tail
        self.log_file = log_file
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        super().__init__(f"{name} ended with {how}\n{log_tail}".rstrip())


class ChildProcess(ABC):
    """A program that this process starts and ends, and may start again.

    It dies with its parent. Both output streams are appended to `log_file`. `stop` and `kill` do
    nothing when it does not run.

    Attributes:
        stop_patience_s: seconds between the SIGTERM and the SIGKILL of `stop`.
    """

    name: str
    port: int
    log_file: Path
    stop_patience_s = 10.0
    _process: asyncio.subprocess.Process | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    async def start(self) -> Self:
        """Start it and return once it can be used."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def log_tail(self) -> str:
        """The last 20 lines it wrote."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    async def _execute(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                # A terminal's Ctrl-C reaches the whole process group; the owner decides the order.
                start_new_session=True,
                preexec_fn=die_with_me(),
                env=dict(environment),
            )

    def died(self) -> ChildDied:
        """The exception that tells how it ended."""
        status = self._process.returncode if self._process is not None else None
        return ChildDied(self.name, status, self.log_tail(), self.log_file)

    async def wait(self) -> int:
        """Wait until it ends; its exit status. Raises ChildDied when it was never started."""
        if self._process is None:
            raise self.died()
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after `stop_patience_s`."""
        if self._process is not None and self.is_running():
            self._process.terminate()
            try:
                async with asyncio.timeout(self.stop_patience_s):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None and self.is_running():
            self._process.kill()
            await self._process.wait()


class EmbeddedServer(ChildProcess):
    """Base of the embedded servers.

    Keeps its port and its data folder over `stop`/`kill` and `start`, so a test can take a server
    away and bring it back. `close` (or leaving the block) ends it and removes a folder of its own.
    """

    def __init__(self, *, port: int | None = None, data_dir: Path | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = port or 0
        self._own_dir = data_dir is None
        self.data_dir = data_dir or Path(tempfile.mkdtemp(prefix=f"mdf-{self.name}-"))
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = self.data_dir / f"{self.name}.log"

    @abstractmethod
    def command(self) -> list[str]:
        """The argument vector that serves `self.port`."""

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
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        await self._execute(self.command(), environment, self.data_dir)
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        while True:
            if not self.is_running():
                status = await self.wait()
                raise ServerFailed(self.name, f"ended with status {status}", self.log_tail())
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

    async def close(self) -> None:
        await self.stop()
        if self._own_dir:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
