"""For tests that run `mdf stack` as a real process and look at what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from tools.subscriber import Subscriber

_MARK = "MDF_TEST_MARK"
_ROOT = str(Path(__file__).resolve().parents[1])


@contextlib.asynccontextmanager
async def running_subscriber(*subscribers: Subscriber) -> AsyncIterator[None]:
    """Run subscribers while the block runs; all are subscribed inside it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(subscriber.run()) for subscriber in subscribers]
        for subscriber in subscribers:
            await subscriber.connected.wait()
        yield
        for task in tasks:
            task.cancel()


class StackProcess:
    """A running `python -m tools.cli stack`; its descendants carry a mark of their own."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self.process = process
        self.lines: list[str] = []
        self._mark = f"{_MARK}={mark}".encode()

    async def finish(self) -> int:
        """Read to the end of its output; the exit status."""
        await self.read_until(lambda _line: False)
        return await self.process.wait()

    async def read_until(self, found: Callable[[str], bool]) -> str:
        """The next line that fulfils `found`, or "" at the end of the output."""
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            line = raw.decode().rstrip("\n")
            self.lines.append(line)
            if found(line):
                return line
        return ""

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def summary(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.lines[-1])
        return parsed

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def descendants(self) -> dict[int, str]:
        """Command lines by process id of everything it started that still lives."""
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            # A process may end while it is looked at, or be somebody else's.
            with contextlib.suppress(OSError):
                pid = int(folder.name)
                if pid == self.process.pid:
                    continue
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[pid] = command.decode(errors="replace").strip()
        return found

    def pid_of(self, part: str) -> int:
        (pid,) = (pid for pid, command in self.descendants().items() if part in command)
        return pid


@contextlib.asynccontextmanager
async def stack_process(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[StackProcess]:
    """`mdf stack <arguments>` with `folder` for its run data; ended when the block is left."""
    mark = uuid.uuid4().hex
    clean = {
        name: value
        for name, value in os.environ.items()
        if name
        not in ("DURATION", "UPSTREAM", "CAPTURE", "BROKER_KIND", "PRODUCTS", "GATEWAY_PORT")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tools.cli", "stack"),
        *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **clean,
            "PYTHONPATH": _ROOT,
            **(environment or {}),
            _MARK: mark,
        },
    )
    running = StackProcess(process, mark)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await running.finish()
