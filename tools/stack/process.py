"""A child process of the stack that serves HTTP: started, waited for until ready, ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import httpx

from tools.embedded.process import die_with_parent, kill, terminate

_READY_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0
_TAIL_LINES = 20


class ChildDied(Exception):
    """A process of the stack ended by itself; `log_tail` holds its last lines."""

    def __init__(self, name: str, status: int | None, log_tail: str, log_file: Path) -> None:
        self.name = name
        self.status = status
        self.log_tail = log_tail
        self.log_file = log_file
        how = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        super().__init__(f"{name} ended with {how}")


class NotReady(Exception):
    """A process runs, and does not become ready; `reason` is what it says of itself."""

    def __init__(self, name: str, seconds: float, reason: str, log_tail: str) -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} was not ready after {seconds:.0f} s: {reason}")


class Component(Protocol):
    """What the stack needs of a child; embedded servers and `Process` offer it."""

    name: str
    port: int
    log_file: Path

    @property
    def pid(self) -> int | None: ...
    def is_running(self) -> bool: ...
    def log_tail(self, lines: int = 20) -> str: ...
    async def start(self) -> object: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...
    async def wait(self) -> int: ...


class Process:
    """`python -m <module>` with an HTTP listener.

    Keeps its port over `stop`/`kill` and `start`, so that whoever depends on it finds it again.

    Args:
        name: shown to the user and used for the log file.
        module: run with `python -m`.
        port: of its HTTP listener.
        arguments: for the module, made from the port at each start.
        environment: for the process, made from the port at each start.
        log_dir: where `<name>.log` is written.
        ready_path: answers 200 when the process can do its job.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        port: int,
        log_dir: Path,
        ready_path: str,
        arguments: Callable[[int], Sequence[str]] = lambda _port: (),
        environment: Callable[[int], Mapping[str, str]],
    ) -> None:
        self.name = name
        self.port = port
        self.log_file = log_dir / f"{name}.log"
        self._module = module
        self._arguments = arguments
        self._environment = environment
        self._ready_url = f"http://127.0.0.1:{self.port}{ready_path}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    async def start(self) -> None:
        """Start it and return once it says that it is ready.

        Raises:
            ChildDied: it ended before.
            NotReady: it is not ready after 60 s; it goes on running.
        """
        await self.spawn()
        await self.ready()

    async def spawn(self) -> None:
        """Start it, whether it ever becomes ready or not."""
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self._module),
                *self._arguments(self.port),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A terminal's Ctrl-C reaches the whole process group; the stack decides the order.
                start_new_session=True,
                preexec_fn=die_with_parent,
                env=dict(self._environment(self.port)),
            )

    async def ready(self) -> None:
        """Return once it says that it is ready; see `start`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_TIMEOUT
        reason = "no answer yet"
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            while True:
                if not self.is_running():
                    raise self.died()
                try:
                    answer = await client.get(self._ready_url)
                except httpx.HTTPError as error:
                    reason = f"{self._ready_url} does not answer ({type(error).__name__})"
                else:
                    if answer.status_code == httpx.codes.OK:
                        return
                    reason = f"{self._ready_url} says {answer.status_code}: {answer.text[:500]}"
                if loop.time() > deadline:
                    raise NotReady(self.name, _READY_TIMEOUT, reason, self.log_tail())
                await asyncio.sleep(0.05)

    def died(self) -> ChildDied:
        """The exception that tells how it ended."""
        status = self._process.returncode if self._process is not None else None
        return ChildDied(self.name, status, self.log_tail(), self.log_file)

    async def wait(self) -> int:
        """Wait until it ends; its exit status."""
        if self._process is None:
            raise self.died()
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after 30 s. Nothing happens when it does not run."""
        await terminate(self._process, _STOP_TIMEOUT)

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        await kill(self._process)
