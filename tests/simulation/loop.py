"""asyncio's event loop on virtual time and a network in memory.

It answers time, connections, listeners, names and threads itself, so the libraries that services
use run on it unchanged. Whenever all wait, the clock jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, NoReturn, Self

from tests.simulation.clock import VirtualClock
from tests.simulation.machine import Listener, Machine, Process, process_of, running_process
from tests.simulation.network import Network
from tests.simulation.transport import SimulatedTransport

# For how long Linux tries to reach a machine that does not answer, and how often, in seconds.
_CONNECT_TIMEOUT_S = 127.0
_CONNECT_AGAIN_S = 1.0
# What is due so soon is due now, in seconds.
_RESOLUTION_S = 1e-9
# With fewer timers, those that were cancelled are left until their time.
_MANY_TIMERS = 100


class EverybodyWaits(RuntimeError):
    """No task can go on and no timer is set: what the simulation waits for can never happen."""


class SimulatedServer(asyncio.AbstractServer):
    """What `create_server` gives: closes its listener, and tells where it listens."""

    def __init__(self, loop: SimulatedLoop, listener: Listener, sockets: tuple[Any, ...]) -> None:
        self._loop = loop
        self._listener = listener
        self.sockets = sockets
        self._serving = True

    def close(self) -> None:
        self._listener.close()
        self._serving = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        """It has served since it was made."""

    async def serve_forever(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def wait_closed(self) -> None:
        """Connections have owners of their own."""


class _Timer(asyncio.TimerHandle):
    # Whether it is in the loop's queue; asyncio's stubs leave it out.
    _scheduled: bool


_numbers = count()


class _Numbered:
    """What sets hold by its number: by its address, two runs of a seed would differ."""

    _number: int

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        made = super().__new__(cls)
        made._number = next(_numbers)
        return made

    def __hash__(self) -> int:
        return self._number


class _Future[T](_Numbered, asyncio.Future[T]):
    pass


class _Task[T](_Numbered, asyncio.Task[T]):
    pass


def _new_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> _Task[Any]:
    return _Task(coro, loop=loop, **options)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs the code of all processes of one simulation."""

    # asyncio's own, which its stubs leave out: what runs next, whether to stop after that, and how
    # many timers were cancelled before their time.
    _ready: deque[asyncio.Handle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self, clock: VirtualClock, network: Network) -> None:
        super().__init__()
        self.clock = clock
        self.network = network
        self.own_context = copy_context()
        self.set_task_factory(_new_task)
        # By time, then in the order in which they were set.
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = count()
        self.processes: list[Process] = []
        # Tasks of the killed, which nobody may let go of: garbage runs its `finally`.
        self.dead: list[asyncio.Task[Any]] = []

    def time(self) -> float:
        return self.clock.monotonic()

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def _run_once(self) -> None:
        """Let time pass if all wait, then run what is due: asyncio's rule, without its sockets."""
        timers, ready = self._timers, self._ready
        if 2 * self._timer_cancelled_count > len(timers) > _MANY_TIMERS:
            timers[:] = [timer for timer in timers if not timer[2].cancelled()]
            heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0][2].cancelled():
            self._pop_timer()
        if not ready and not self._stopping:
            if not timers:
                raise EverybodyWaits
            if (left_s := timers[0][0] - self.time()) > 0:
                self.clock.advance(left_s)
        now_s = self.time() + _RESOLUTION_S
        while timers and timers[0][0] < now_s:
            ready.append(self._pop_timer())
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def _pop_timer(self) -> _Timer:
        _when, _number, handle = heappop(self._timers)
        self._timer_cancelled_count -= handle.cancelled()
        # Who cancels it from now on leaves nothing in the queue.
        handle._scheduled = False
        return handle

    def _write_to_self(self) -> None:
        """Nothing has to be woken: there is one thread."""

    # -- processes

    def running_process(self) -> Process | None:
        """The process whose code runs now; None for the simulation's own."""
        try:
            return running_process()
        except LookupError:
            return None

    def start(self, machine: Machine, main: Callable[[], Any]) -> Process:
        """Start a process on `machine`; it exits when the coroutine function `main` returns."""
        process = Process(machine)
        self.processes.append(process)
        context = process.context()
        task = context.run(self.create_task, main(), name=machine.name, context=context)
        process.main = task
        task.add_done_callback(lambda _: self._exit(process, task), context=self.own_context)
        return process

    def _exit(self, process: Process, task: asyncio.Task[Any]) -> None:
        if process.alive:
            self.kill(process)
            if not task.cancelled() and (error := task.exception()) is not None:
                told = {"message": f"{process.machine.name} ended by an error", "exception": error}
                self.call_exception_handler(told)

    def kill(self, process: Process, *, unplugged: bool = False) -> None:
        """End a process as SIGKILL does, or (`unplugged`) as the loss of its machine does."""
        process.end(unplugged=unplugged)
        self.processes.remove(process)
        for handle in [*self._ready, *(timer for _when, _number, timer in self._timers)]:
            if process_of(handle.get_context()) is process:
                handle.cancel()
        for task in asyncio.all_tasks(self):
            if process_of(task.get_context()) is process:
                self.dead.append(task)

    def call_soon[*Ts](
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        if context is not None and _of_the_dead(context):
            handle.cancel()
        return handle

    def call_at[*Ts](
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Timer(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._numbers), handle))
        handle._scheduled = True
        if context is not None and _of_the_dead(context):
            handle.cancel()
        return handle

    def _timer_handle_cancelled(self, handle: _Timer) -> None:
        self._timer_cancelled_count += handle._scheduled

    def call_soon_threadsafe[*Ts](
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor[*Ts, T](
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Compute it here and now: threads would make two runs of a seed differ."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, as by a thread
            future.set_exception(error)
        return future

    # -- signals: a simulated process is stopped by its owner

    def add_signal_handler[*Ts](
        self, sig: int, callback: Callable[[*Ts], object], *args: *Ts
    ) -> None:
        """Nobody sends any."""

    def remove_signal_handler(self, sig: int) -> bool:
        return True

    # -- names and connections

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        machine = self.network.find(name)
        if machine is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{name}: name or service not known")
        where = (machine.address, int(port or 0))
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]

    async def create_server(  # type: ignore[override]  # its many ways to be called are one here
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        sock: Any = None,
        ssl: Any = None,
        **_options: Any,
    ) -> SimulatedServer:
        """Listen on the running process's machine, whatever `host` says of its interfaces."""
        if ssl is not None:
            _no_tls()
        asked = sock.getsockname()[1] if sock is not None else port or 0
        process = running_process()
        listener = process.listen(asked, protocol_factory)
        bound = ListeningSocket((process.machine.address, listener.port))
        return SimulatedServer(self, listener, (bound,))

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        ssl: Any = None,
        **_options: Any,
    ) -> Any:
        """Connect the running process to a listener.

        Raises:
            ConnectionRefusedError: nobody listens there.
            TimeoutError: nothing came back in 127 s.
            socket.gaierror: nobody has that name.
        """
        if ssl:
            _no_tls()
        ((_family, _type, _proto, _name, (address, number)),) = await self.getaddrinfo(host, port)
        process, there = running_process(), self.network.find(address)
        assert there is not None
        here = process.machine
        names = ((here.address, here.free_port()), (there.address, number))
        out, back = self.network.way(here, there), self.network.way(there, here)
        deadline = self.time() + _CONNECT_TIMEOUT_S
        while out.blocked or back.blocked or not there.up:
            if self.time() >= deadline:
                raise TimeoutError(110, "Connection timed out")
            await asyncio.sleep(_CONNECT_AGAIN_S)
        await asyncio.sleep(self.network.under_way_ns(out) / 1e9)
        listener = there.listeners.get(number)
        if listener is None:
            await asyncio.sleep(self.network.under_way_ns(back) / 1e9)
            raise ConnectionRefusedError(111, f"Connect call failed {names[1]}")
        near = SimulatedTransport(self, process, names, out)
        far = SimulatedTransport(self, listener.process, (names[1], names[0]), back)
        near.peer, far.peer = far, near
        self.call_soon(_accept, listener, far, context=self.own_context)
        try:
            await asyncio.sleep(self.network.under_way_ns(back) / 1e9)
        except asyncio.CancelledError:
            near.abort()
            raise
        protocol = protocol_factory()
        near.begin(protocol, copy_context())
        return near, protocol


class ListeningSocket:
    """What a server tells of the socket that it listens on."""

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(self, name: tuple[str, int]) -> None:
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        return self._name


def _accept(listener: Listener, transport: SimulatedTransport) -> None:
    if listener.process.alive:
        context = listener.context.copy()
        transport.begin(context.run(listener.accept), context)


def _of_the_dead(context: Context) -> bool:
    process = process_of(context)
    return process is not None and not process.alive


def _no_tls() -> NoReturn:
    raise ValueError("the simulated network speaks without TLS")
