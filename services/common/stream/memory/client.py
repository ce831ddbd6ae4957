"""The server that memory brokers talk to, and what each of them knows of it.

`MemoryServer` stands for the server: brokers that are given the same one see the same logs, and it
can be stopped, started and emptied. Nothing survives the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.common.errors import BrokerUnavailable
from services.common.stream.memory.log import MemoryLog
from services.common.stream.records import LogSpec
from services.common.stream.worker import Bell


@dataclass(slots=True, eq=False)
class MemoryServer:
    """The logs that memory brokers share."""

    clock: Callable[[], float] = time.monotonic  # seconds; only differences count
    max_payload: int = 8 * 1024 * 1024  # largest record taken, bytes
    running: bool = True
    bell: Bell = field(default_factory=Bell)
    _logs: dict[str, MemoryLog] = field(default_factory=dict)
    _newest_epoch: int = 0
    _resume: list[Callable[[], None]] = field(default_factory=list)

    def start(self) -> None:
        self.running = True
        self._changed()
        self.bell.ring()

    def when_changed(self, resume: Callable[[], None]) -> None:
        """Call `resume` once: at the next `start`, or when a log is made."""
        self._resume.append(resume)

    def _changed(self) -> None:
        waiting, self._resume = self._resume, []
        for resume in waiting:
            resume()

    def stop(self) -> None:
        """Answer nobody until `start`."""
        self.running = False

    def wipe(self) -> None:
        """Lose every log, as a server that comes back with an empty disk."""
        self._logs.clear()
        self.bell.ring()

    def ensure(self, spec: LogSpec) -> MemoryLog:
        log = self._logs.get(spec.log)
        if log is None:
            self._newest_epoch = max(self._newest_epoch + 1, time.time_ns() // 1000)
            log = self._logs[spec.log] = MemoryLog(spec, self._newest_epoch)
            self._changed()
        log.spec = spec
        return log

    def log(self, name: str) -> MemoryLog | None:
        return self._logs.get(name)


class MemoryClient:
    """One broker's view of the server: which logs it ensured, and whether the server answers."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self._specs: dict[str, LogSpec] = {}

    def ensure(self, spec: LogSpec) -> None:
        self._specs[spec.log] = spec
        self.server.ensure(spec)

    def check_answers(self) -> None:
        """Raise BrokerUnavailable while the server is stopped."""
        if not self.server.running:
            raise BrokerUnavailable("memory", "the server is stopped")

    def check_known(self, name: str) -> None:
        """Raise BrokerUnavailable when nobody made this log."""
        if name not in self._specs and self.server.log(name) is None:
            raise BrokerUnavailable("memory", f"log {name} does not exist")

    def log(self, name: str) -> MemoryLog:
        """The log, made anew when it was lost and this broker had ensured it.

        Raises:
            BrokerUnavailable: the server is stopped, or nobody made this log.
        """
        self.check_answers()
        found = self.server.log(name)
        if found is None:
            self.check_known(name)
            found = self.server.ensure(self._specs[name])
        return found
