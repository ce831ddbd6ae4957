"""What publishers, subscriptions and connections of all brokers have in common.

Each is the parent of at most one background task. It ends with `aclose`: then callers get
`BrokerClosed`. Should it end by an error nobody foresaw, callers get `BrokerFailed`, which names
it, instead of waiting for ever: whoever opened it has to open another, or to end. (`LogWentBack` is
foreseen, and given as it is.) Its owner, the
broker (`broker_base.py`), is told of every end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from services.common.errors import BrokerClosed, BrokerError, BrokerFailed, LogWentBack

log = structlog.get_logger(__name__)


def worth_saying(attempt: int) -> bool:
    """Whether a failed try is worth a warning: the first, and then now and then."""
    return attempt == 0 or attempt % 15 == 0


def say_failed_try(attempt: int, event: str, /, **fields: object) -> None:
    """Warn of it where it is worth saying."""
    say = log.warning if worth_saying(attempt) else log.debug
    say(event, **fields)


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until the event is set; False when that took longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Bell:
    """Wakes everyone who waits; ringing is synchronous."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return after the next ring or after `timeout_s`, whichever is first."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if timeout_s is None:
                # Half of what `asyncio.wait` takes, and a turn of the event loop earlier.
                await waiter
            else:
                await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)


class Worker:
    """Parent of one background task; `changed` rings whenever a caller should look again.

    One whose work is done by others' calls starts no task.

    Args:
        what: its name in errors and logs.
        changed: to be rung; a bell of its own without.
    """

    def __init__(self, what: str, changed: Bell | None = None) -> None:
        self.what = what
        self.ended = False  # it works no more, as it was closed or failed
        self.changed = changed or Bell()
        self.closed = False  # it was closed, whether it had failed before or not
        # The error by which it ended, whether it was closed since or not; CancelledError where
        # somebody else cancelled its task.
        self.failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._tell_owner: Callable[[Worker], None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin; once. No block can span this task's life, so `_on_done` learns how it ends."""
        self._task = asyncio.get_running_loop().create_task(work, name=self.what)
        self._task.add_done_callback(self._on_done)

    def when_ended(self, tell_owner: Callable[[Worker], None]) -> None:
        """Have the owner told when it fails, and when it is closed (now, where it has ended)."""
        self._tell_owner = tell_owner
        if self.ended:
            tell_owner(self)

    @property
    def failed(self) -> bool:
        return self.failure is not None

    def fail(self, error: BaseException) -> None:
        """End by an error, which may have been met outside of the task; the first one counts."""
        if self.ended:
            return
        self.failure = error
        if isinstance(error, LogWentBack):
            log.warning("log_went_back", what=self.what, reason=str(error))
        else:
            log.error("broker_worker_failed", what=self.what, exc_info=error)
        if self._task is not None:
            self._task.cancel()
        self._end()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error: BaseException = (
            asyncio.CancelledError("its task was cancelled")
            if task.cancelled()
            else task.exception() or RuntimeError("its task returned")
        )
        while isinstance(error, BaseExceptionGroup):
            # The task may be a group of several; the first that fails ends them.
            error = error.exceptions[0]
        if self.ended:
            # Whoever closes a worker says so before its task is cancelled.
            if not task.cancelled():
                log.debug("broker_worker_ended", what=self.what, error=repr(error))
        elif isinstance(error, BrokerClosed):
            # What it works with was closed, which is done to all parts of a broker together.
            self.closed = True
            self._end()
        else:
            self.fail(error)

    def _end(self) -> None:
        """It works no more: tell everyone who waits, and the owner."""
        self.ended = True
        self.changed.ring()
        if self._tell_owner is not None:
            self._tell_owner(self)

    def why_ended(self) -> BrokerError:
        """What callers get: it was closed, or failed and nobody has closed it since."""
        if self.closed or self.failure is None:
            return BrokerClosed(self.what)
        failure = self.failure
        if isinstance(failure, LogWentBack):
            return LogWentBack(failure.subject, failure.position, failure.newest)
        error = BrokerFailed(self.what, str(failure) or type(failure).__name__)
        error.__cause__ = failure
        return error

    def check_open(self) -> None:
        """Raise BrokerClosed or BrokerFailed unless this still works."""
        if self.ended:
            raise self.why_ended()

    async def until(self, ready: Callable[[], object]) -> None:
        """Return once it is `ready`; asked now, and whenever `changed` rings.

        Raises:
            BrokerClosed, BrokerFailed: it ended.
        """
        while True:
            self.check_open()
            if ready():
                return
            await self.changed.wait()

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            self._end()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))


class Subscription(Worker):
    """A worker that follows a log."""

    def __init__(self, what: str, changed: Bell | None = None) -> None:
        super().__init__(what, changed)
        self.joined = asyncio.Event()  # set once it is active
        self.joins = 0  # how often it became active: at first, and after each outage

    def has_joined(self) -> None:
        """It is active (again)."""
        self.joins += 1
        self.joined.set()
        self.changed.ring()
