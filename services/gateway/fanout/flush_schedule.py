"""When the hub writes: at the end of the event loop's turn, or of the flush window. Pure."""

from __future__ import annotations

from collections.abc import Callable


class FlushSchedule:
    """Sees to it that `flush` is called once, however often it is asked for.

    Args:
        schedule: calls back at the end of the event loop's turn.
        schedule_at: calls back at a time of `clock`.
        clock: seconds, does not go back.
        window: pushes come at least so many seconds after those before; 0 is every turn.
        flush: what is to be called.

    Attributes:
        flushing: it is to be called, or is running.
        held: what is pushed waits for the end of the window.
    """

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object],
        schedule_at: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        window: float,
        flush: Callable[[], None],
    ) -> None:
        self._schedule = schedule
        self._schedule_at = schedule_at
        self._clock = clock
        self._window = window
        self._flush = flush
        self._pushed_at = -window
        self.flushing = False
        self.held = False

    def want_flush(self) -> None:
        """Something waits to be written or told: flush in this turn."""
        if not self.flushing:
            self.flushing = True
            self._schedule(self._flush)

    def want_push(self) -> None:
        """Something was pushed: flush in this turn, or at the end of the window."""
        if not self._window:
            self.want_flush()
        elif not self.held:
            end = self._pushed_at + self._window
            if self._clock() < end:
                self.held = True
                self._schedule_at(end, self._on_window)
            else:
                self.want_flush()

    def pushed(self) -> None:
        """What was pushed is written: another window begins."""
        if self._window:
            self._pushed_at = self._clock()

    def _on_window(self) -> None:
        self.held = False
        self._flush()
