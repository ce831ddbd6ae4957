"""`mdf loadtest`: subscribers that check every chain, in one process or several."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable

import click
import msgspec
from rich.console import Console
from rich.table import Table

from services.common.runtime import flatten
from services.common.subjects import CHANNELS
from tools.loadtest.counts import LoadCounts, Told
from tools.loadtest.load import Load
from tools.options import (
    POSITIVE,
    max_rate_option,
    mode_option,
    option,
    products_option,
    url_option,
)

_WORKER = (sys.executable, "-m", "tools.loadtest.load")
_SHARE = click.FloatRange(0, 1)


@click.command(context_settings={"show_default": True})
@url_option
@products_option("BTC-USD")
@option("--channel", type=click.Choice(CHANNELS), default="ticker")
@option("--clients", type=click.IntRange(1), default=100)
@option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    text="Processes that the clients are shared among.",
)
@option(
    "--duration",
    type=POSITIVE,
    default=10.0,
    text="Seconds, from when the last client is subscribed.",
)
@click.option("--ramp", type=POSITIVE, default=200.0, help="New connections a second.")
@click.option(
    "--churn",
    type=click.FloatRange(0),
    default=0.0,
    help="Connections cut a second; each resumes from what it holds.",
)
@click.option(
    "--slow",
    type=_SHARE,
    default=0.0,
    help="Share of clients that read slowly; in the end they have to catch up.",
)
@click.option(
    "--slow-rate",
    type=POSITIVE,
    default=5.0,
    help="Messages a second that a slow client reads.",
)
@click.option(
    "--resumers",
    type=_SHARE,
    default=0.0,
    help="Share of clients that begin with all that is retained.",
)
@mode_option
@max_rate_option
@option("--api-key", text="Sent as X-API-Key.")
def loadtest(processes: int, **options: object) -> None:
    """Put many verifying subscribers on a gateway.

    Progress and a table go to stderr, one JSON line to stdout. The exit status is 0 when every
    client got ticks, none saw an unexplained break and the slow ones caught up in the end.
    """
    load = Load(**options)  # type: ignore[arg-type]  # click has checked the types
    total, seconds = asyncio.run(_run(load, min(processes, load.clients)))
    result = total.result(seconds)
    _table(result)
    click.echo(json.dumps(result))
    raise SystemExit(not result["ok"])


async def _run(load: Load, processes: int) -> tuple[LoadCounts, float]:
    """The counts of all processes, and the longest measuring."""
    latest: dict[int, LoadCounts] = {}
    seconds = [0.0] * processes

    async def one(index: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *_WORKER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(load.share(index, processes)) + b"\n")
            await process.stdin.drain()
            while line := await process.stdout.readline():
                told = msgspec.json.decode(line, type=Told)
                if told.refused is not None:
                    raise click.ClickException(told.refused)
                latest[index] = told.counts
                seconds[index] = told.seconds or 0.0
            if await process.wait() or not seconds[index]:
                raise click.ClickException("a load process failed; what it said stands above")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def total() -> LoadCounts:
        found = LoadCounts()
        for counts in latest.values():
            found.add(counts)
        return found

    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(_progress(load, total))
            async with asyncio.TaskGroup() as workers:
                for index in range(processes):
                    workers.create_task(one(index))
            showing.cancel()
    except ExceptionGroup as failed:
        raise next(flatten(failed)) from failed
    return total(), max(seconds)


async def _progress(load: Load, total: Callable[[], LoadCounts]) -> None:
    """One line a second on stderr, over itself in a terminal."""
    terminal = sys.stderr.isatty()
    before, began = 0, time.monotonic()
    while True:
        await asyncio.sleep(1)
        counts = total()
        applied = counts.chains.applied
        p99 = counts.delta.quantile(0.99)
        line = (
            f"{time.monotonic() - began:5.0f} s  {counts.connected}/{load.clients} connected  "
            f"{applied - before} ticks/s  p99 {'–' if p99 is None else f'{p99 / 1000:.1f} ms'}  "
            f"{counts.resumed} resumed  {counts.chains.duplicates} duplicates  "
            f"{counts.chains.unexplained} missed"
        )
        before = applied
        print(
            f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()


def _table(result: dict[str, object]) -> None:
    console = Console(stderr=True)
    if console.is_terminal:
        console.print()
    table = Table("measured", "value", title="load test", title_justify="left")
    table.columns[1].justify = "right"
    for name, value in result.items():
        table.add_row(name.replace("_", " "), "–" if value is None else str(value))
    console.print(table)
