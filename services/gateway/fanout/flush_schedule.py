"""When the hub writes: at the end of the event loop's turn, or of the flush window. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Turns(NamedTuple):
    """The event loop as the fan-out sees it.

    Attributes:
        schedule: calls back at the end of the event loop's turn.
        schedule_at: calls back at a time of `clock`.
        clock: seconds, does not go back.
    """

    schedule: Callable[[Callable[[], None]], object]
    schedule_at: Callable[[float, Callable[[], None]], object]
    clock: Callable[[], float]


@dataclass(slots=True)
class FlushSchedule:
    """Sees to it that `flush` is called once, however often it is asked for.

    Args:
        window: pushes come at least so many seconds after those before; 0 is every turn.
        flush: what is to be called.

    Attributes:
        flushing: it is to be called, or is running.
        held: what is pushed waits for the end of the window.
    """

    turns: Turns
    window: float
    flush: Callable[[], None]
    flushing: bool = False
    held: bool = False
    _pushed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._pushed_at = -self.window

    def want_flush(self) -> None:
        """Something waits to be written or told: flush in this turn."""
        if not self.flushing:
            self.flushing = True
            self.turns.schedule(self.flush)

    def want_push(self) -> None:
        """Something was pushed: flush in this turn, or at the end of the window."""
        if not self.window:
            self.want_flush()
        elif not self.held:
            end = self._pushed_at + self.window
            if self.turns.clock() < end:
                self.held = True
                self.turns.schedule_at(end, self._on_window)
            else:
                self.want_flush()

    def pushed(self) -> None:
        """What was pushed is written: another window begins."""
        if self.window:
            self._pushed_at = self.turns.clock()

    def _on_window(self) -> None:
        self.held = False
        self.flush()
