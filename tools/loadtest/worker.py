"""One process of a load test: its share as JSON in, its counts as JSON lines out."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from market_data_fanout_client import Refused

from tools.loadtest.counts import Told
from tools.loadtest.load import Load, LoadRun

_PROGRESS_S = 1.0


async def work(load: Load) -> None:
    run = LoadRun(load)

    async def progress() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            tell(Told(run.sum()))

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(progress())
        seconds = await run.run()
        telling.cancel()
    tell(Told(run.sum(), seconds))


def tell(told: Told) -> None:
    print(msgspec.json.encode(told).decode(), flush=True)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    try:
        uvloop.run(work(load))
    except ExceptionGroup as failed:
        refused, _ = failed.split(Refused)
        if refused is None:
            raise
        tell(Told(refused=str(refused.exceptions[0])))


if __name__ == "__main__":
    main()
