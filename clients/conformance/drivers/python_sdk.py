"""The Python SDK as the conformance kit wants a client: one line of JSON for each event."""

import asyncio
import json
import os

from market_data_fanout_client import (
    AnyEvent,
    Client,
    Connected,
    Disconnected,
    OrderBook,
    Reset,
    Snapshot,
    Tick,
)


def line(event: AnyEvent, book: OrderBook | None) -> dict[str, object] | None:
    best = {}
    if book is not None:
        bid, ask = book.best_bid, book.best_ask
        best = {
            "best_bid": [bid.price, bid.size] if bid else None,
            "best_ask": [ask.price, ask.size] if ask else None,
            "levels": len(book),
            "valid": book.valid,
        }
    match event:
        case Tick():
            return {"event": "tick", "epoch": event.epoch, "seq": event.seq, **best}
        case Snapshot():
            return {"event": "snapshot", "epoch": event.epoch, "seq": event.seq, **best}
        case Reset():
            return {"event": "reset", "epoch": event.epoch, "seq": event.seq, **best}
        case Connected() | Disconnected():
            return None
    return None


async def main() -> None:
    product, channel = os.environ["PRODUCT"], os.environ["CHANNEL"]
    # The kit waits for seconds, and is alone.
    async with Client(os.environ["URL"], reconnect_spread_s=0.05) as client:
        await client.subscribe(product, channel=channel)  # type: ignore[arg-type]  # the kit's word
        async for event in client:
            found = line(event, client.book(product) if channel == "book" else None)
            if found is not None:
                print(json.dumps(found), flush=True)


asyncio.run(main())
