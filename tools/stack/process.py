"""A child process of the stack that serves HTTP: started, waited for until ready, ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx

from tools.embedded import ChildProcess

_READY_TIMEOUT = 60.0


class NotReady(Exception):
    """A process runs, and does not become ready; `reason` is what it says of itself."""

    def __init__(self, name: str, seconds: float, reason: str, log_tail: str) -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        told = f"{name} was not ready after {seconds:.0f} s: {reason}"
        super().__init__(f"{told}\n{log_tail}".rstrip())


class Process(ChildProcess):
    """`python -m <module>` with an HTTP listener, whose `ready_path` answers 200 when it is ready.

    Keeps its port over `stop`/`kill` and `start`, so that whoever depends on it finds it again; its
    `environment` is made from the port at each start. `<name>.log` is written in `log_dir`.
    """

    stop_patience_s = 30.0

    def __init__(
        self,
        name: str,
        module: str,
        *,
        port: int,
        log_dir: Path,
        ready_path: str,
        arguments: Sequence[str] = (),
        environment: Callable[[int], Mapping[str, str]],
    ) -> None:
        self.name = name
        self.port = port
        self.log_file = log_dir / f"{name}.log"
        self._module = module
        self._arguments = arguments
        self._environment = environment
        self._ready_url = f"{self.url}{ready_path}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        """Start it and return once it says that it is ready.

        Raises:
            ChildDied: it ended before.
            NotReady: it is not ready after 60 s; it goes on running.
        """
        await self.spawn()
        await self.ready()
        return self

    async def spawn(self) -> None:
        """Start it, whether it ever becomes ready or not."""
        command = (sys.executable, "-m", self._module, *self._arguments)
        await self._execute(command, self._environment(self.port))

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
