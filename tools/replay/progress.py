"""A progress bar on standard error while a terminal is there to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(
    span: tuple[int, int] | None, speed: float
) -> Iterator[Callable[[int, int], None]]:
    """Shows how far in recorded time the replay is, of `span` (microseconds; None: nothing there).

    Yields what is told: the record received at (microseconds) is on its way, so many in all.
    `speed` 0 is at full speed.
    """
    first, last = span or (0, 0)
    console = Console(stderr=True)
    with Progress(
        TextColumn(f"replay, {f'{speed:g}x' if speed else 'full speed'}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[at]}  {task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("replay", total=max(1, last - first), at="", records=0)

        def reached(ts: int, records: int) -> None:
            at = datetime.fromtimestamp(ts / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
            progress.update(task, completed=max(0, ts - first), at=at, records=records)

        yield reached
