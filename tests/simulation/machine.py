"""Machines and what runs on them.

A `Process` is what is killed: its tasks and timers never run again, its connections are cut, its
ports are free. A `Machine` is what stays: an address, and a wall clock that may be wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.transport import SimulatedTransport

# Whose code is running. Tasks, timers and callbacks of protocols inherit it by their context.
_running: ContextVar[Process] = ContextVar("simulated_process")
_FIRST_FREE_PORT = 32768


class AddressInUse(OSError):
    """Somebody on that machine listens on that port."""

    def __init__(self, machine: str, port: int) -> None:
        self.port = port
        super().__init__(98, f"{machine}: port {port} is in use")


class Machine:
    """A computer with one address and one wall clock."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        # Whether it has power: what reaches one that has none is lost without a word.
        self.up = True
        # By how much its wall clock is ahead of true time, and by how much more each second.
        self.clock_ahead_ns = 0
        self.clock_drift = 0.0
        self.listeners: dict[int, Listener] = {}
        self._next_port = _FIRST_FREE_PORT

    def free_port(self) -> int:
        """A port that nobody had before: for an outgoing connection or a listener on any port."""
        self._next_port += 1
        return self._next_port

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {self.address!r})"


class Process:
    """A program that runs on a machine, from its start to its end."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.up = True
        self.alive = True
        self.transports: dict[SimulatedTransport, None] = {}
        # asyncio holds tasks weakly; a real program's main task is held by its runner.
        self.main: asyncio.Task[Any] | None = None

    def context(self) -> Context:
        """A context for code of this process; what that code starts inherits it."""
        context = copy_context()
        context.run(_running.set, self)
        return context

    def listen(self, port: int, accept: Callable[[], asyncio.BaseProtocol]) -> Listener:
        """Take a port of the machine; 0 takes a free one.

        Raises:
            AddressInUse: another listener has it.
        """
        machine = self.machine
        if port in machine.listeners:
            raise AddressInUse(machine.name, port)
        listener = Listener(self, port or machine.free_port(), accept)
        machine.listeners[listener.port] = listener
        return listener

    def end(self, *, unplugged: bool = False) -> None:
        """End it as SIGKILL does: the other ends of its connections learn of it from the kernel.

        Where the whole machine was `unplugged` they learn nothing.
        """
        self.alive = False
        self.machine.up = not unplugged
        for listener in list(self.machine.listeners.values()):
            if listener.process is self:
                listener.close()
        for transport in list(self.transports):
            transport.die(unplugged=unplugged)


class Listener:
    """A port that is listened on; `accept` makes the protocol of each connection."""

    def __init__(
        self, process: Process, port: int, accept: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self.process = process
        self.port = port
        self.accept = accept
        self.context = copy_context()

    def close(self) -> None:
        """Take no new connections; those that stand are left alone."""
        if self.process.machine.listeners.get(self.port) is self:
            del self.process.machine.listeners[self.port]


def running_process() -> Process:
    """The process whose code runs now.

    Raises:
        LookupError: the code is the simulation's own.
    """
    return _running.get()


def process_of(context: Context) -> Process | None:
    """The process that code in `context` belongs to; None for the simulation's own."""
    return context.get(_running)
