"""`python -m tools.bench.fanout gateway`: servers of your choice beside the limit."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import click
import structlog

from tools.bench.fanout.servers import SERVERS, running
from tools.bench.fanout.sink import sink
from tools.bench.fanout.tables import ratio
from tools.bench.registry import spread


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(SERVERS))
@click.option("--ticks", default=1, show_default=True, help="Messages of one flush.")
@click.option("--clients", default=1000, show_default=True)
@click.option("--flushes", default=200, show_default=True)
@click.option("--rate", default=0.0, help="Flushes a second; 0: each after the one before.")
@click.option("--rounds", default=3, show_default=True, help="Each server in turn, so many times.")
def main(names: tuple[str, ...], **asked: Any) -> None:
    """Measure the servers NAMES and the limit in turn; print each run and the ratios."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(_measure(("limit", *names), **asked))


async def _measure(
    names: tuple[str, ...], ticks: int, clients: int, flushes: int, rate: float, rounds: int
) -> None:
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in cpu:
            async with running(name, ticks) as server:
                found = await sink(
                    server, [clients], flushes=flushes + 10, warmup=10, ticks=ticks, rate=rate
                )
            cpu[name].append(found.cpu_us)
            print(f"{name:14} {found.cpu_us:6.3f} us a delivery", found.delay_us, found.stages[0])
    for name, values in cpu.items():
        best, pairs = ratio(values, cpu["limit"])
        text = f"x limit: best of each {best:.2f}, median pair {pairs:.2f}"
        print(f"{name:14} {spread(values).text(3)} us, {text}")


if __name__ == "__main__":
    main()
