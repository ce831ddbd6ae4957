"""The Python SDK as the conformance kit wants a client: one line of JSON for each event."""

import asyncio
import json
import os

from market_data_fanout_client import Client, Level, Reset, Snapshot, Tick


def row(level: Level | None) -> list[str | None] | None:
    return [level.price, level.size] if level else None


async def main() -> None:
    product, channel = os.environ["PRODUCT"], os.environ["CHANNEL"]
    # The kit waits for seconds, and is alone.
    async with Client(os.environ["URL"], reconnect_spread_s=0.05) as client:
        await client.subscribe(product, channel=channel)  # type: ignore[arg-type]  # the kit's word
        async for event in client:
            if not isinstance(event, Tick | Snapshot | Reset):
                continue
            kind = type(event).__name__.lower()
            line: dict[str, object] = {"event": kind, "epoch": event.epoch, "seq": event.seq}
            if channel == "book":
                book = client.book(product)
                line |= {"best_bid": row(book.best_bid), "best_ask": row(book.best_ask)}
                line |= {"levels": len(book), "valid": book.valid}
            print(json.dumps(line), flush=True)


asyncio.run(main())
