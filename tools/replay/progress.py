"""A progress bar on standard error while a terminal is there to show it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ReplayProgress:
    """Shows how far in recorded time the replay is.

    Args:
        span: recorded time from and to, microseconds; None when there is nothing to replay.
        speed: of the replay, for the title; 0 is at full speed.
    """

    def __init__(self, span: tuple[int, int] | None, speed: float) -> None:
        self._first, self._last = span or (0, 0)
        console = Console(stderr=True)
        pace = f"{speed:g}x" if speed else "full speed"
        self._progress = Progress(
            TextColumn(f"replay, {pace}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[at]}  {task.fields[records]:,} records"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        total = max(1, self._last - self._first)
        self._task = self._progress.add_task("replay", total=total, at="", records=0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def reached(self, ts: int, records: int) -> None:
        """The record received at `ts` (microseconds) is on its way, `records` in all."""
        if self._task is None:
            return
        at = datetime.fromtimestamp(ts / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        self._progress.update(
            self._task, completed=max(0, ts - self._first), at=at, records=records
        )
