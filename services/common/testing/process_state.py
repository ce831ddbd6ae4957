"""What a test may leave behind in its process, taken down before it and compared after it.

Files run in the order of a seed, many in one process: what one leaves changed, another finds. Where
that is a failure at all, it is one of a file that did nothing wrong, in one order of many.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from services.common.observability import tracing

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
# pytest's own: the name of the running test, which it sets and takes away itself.
_OF_PYTEST: Final = frozenset({"PYTEST_CURRENT_TEST"})


class LeftChanged(AssertionError):
    """A test left its process other than it found it; `what` names each thing that is changed."""

    def __init__(self, what: list[str]) -> None:
        self.what = what
        super().__init__(f"left changed in this process: {', '.join(what)}")


def process_state() -> dict[str, Any]:
    """What the whole process has one of and tests could change, each by a name for people."""
    environment = {
        f"environment variable {name}": value
        for name, value in os.environ.items()
        if name not in _OF_PYTEST
    }
    return environment | {
        "working directory": os.getcwd(),
        "garbage collector switched on": gc.isenabled(),
        "garbage collector's thresholds": gc.get_threshold(),
        "tracing": tracing.ACTIVE,
        **{f"handler of {number.name}": signal.getsignal(number) for number in _SIGNALS},
    }


def left_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what is not as it was, in a fixed order; empty where all is."""
    missing = object()
    return sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name, missing) != after.get(name, missing)
    )


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """Give back the set-up of logs that was there: every command of the project makes its own."""
    root = logging.getLogger()
    handlers, level, processors = root.handlers[:], root.level, structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in root.manager.loggerDict}
    bound = structlog.contextvars.get_contextvars()
    try:
        yield
    finally:
        root.setLevel(level)
        # pytest adds handlers of its own for each phase of a test and takes them away itself.
        root.handlers[:] = [one for one in root.handlers if one in handlers or _of_pytest(one)]
        root.handlers += [one for one in handlers if one not in root.handlers]
        for name in list(root.manager.loggerDict):
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
        structlog.configure(**processors)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**bound)


def _of_pytest(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("_pytest.")


@contextmanager
def left_as_found() -> Iterator[None]:
    """Refuse a block that leaves the process changed.

    Raises:
        LeftChanged: with the name of each thing that is not as it was.
    """
    before = process_state()
    with logging_as_it_was():
        yield
    if changed := left_changed(before, process_state()):
        raise LeftChanged(changed)
