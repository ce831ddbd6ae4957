"""One process of a load test: its share as JSON in, its counts as JSON lines out."""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from market_data_fanout_client import Refused

from tools.loadtest.load import Load, LoadRun

_PROGRESS_S = 1.0


async def work(load: Load) -> None:
    run = LoadRun(load)

    def tell(seconds: float | None) -> None:
        print(json.dumps({"counts": run.sum().packed(), "seconds": seconds}), flush=True)

    async def progress() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            tell(None)

    async with asyncio.TaskGroup() as group:
        telling = group.create_task(progress())
        seconds = await run.run()
        telling.cancel()
    tell(seconds)


def main() -> None:
    values = json.loads(sys.stdin.readline())
    values["products"] = tuple(values["products"])
    try:
        uvloop.run(work(Load(**values)))
    except ExceptionGroup as failed:
        refused, _ = failed.split(Refused)
        if refused is None:
            raise
        print(json.dumps({"refused": str(refused.exceptions[0])}), flush=True)


if __name__ == "__main__":
    main()
