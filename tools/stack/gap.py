"""The story of a gap: messages dropped upstream, found, announced to the client, healed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx
from market_data_fanout_client.chain import Verdict

from tools.stack.gaps import GapFigures
from tools.subscribed_book import record_of
from tools.subscriber import Message

# Time for the board to show what normal looks like.
_BEFORE_S = 4.0
_DROPPED = 40
_TYPES = ("match", "ticker", "l2update")


class GapStory:
    """Makes one gap and tells what a subscriber hears of it, line by line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._product: str | None = None
        self._made_at = 0.0

    async def run(self, exchange_url: str, product: str) -> None:
        """Wait a few seconds, then have the exchange drop messages of `product`.

        Raises:
            httpx.HTTPError: the exchange did not take the order.
        """
        await asyncio.sleep(_BEFORE_S)
        self._product = product
        self._made_at = time.time()
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.post(
                f"{exchange_url}/_control/faults",
                json={"drop": {"count": _DROPPED, "products": [product], "types": list(_TYPES)}},
            )
            answer.raise_for_status()
        self._say(f"\n[gap] the exchange drops the next {_DROPPED} messages of {product}")

    def conclude(self, figures: GapFigures) -> None:
        """Say what the ingestor counted."""
        outcomes = ", ".join(f"{count} {name}" for name, count in figures.outcomes.items())
        self._say(
            f"[gap] the ingestor found {figures.detected} and healed {figures.healed}"
            f"{f' ({outcomes})' if outcomes else ''}"
        )

    def take(self, message: Message, _verdict: Verdict | None, now: float) -> None:
        """Take in what a subscriber received at `now`, seconds since the Unix epoch."""
        record = record_of(message)
        if self._product is None or record.get("product") != self._product:
            return
        after = f"[gap] +{now - self._made_at:5.2f} s  client hears: {record.get('channel')}"
        if message.get("type") == "status":
            self._say(f"{after} is {record['state']} ({record['evidence']})")
        elif message.get("type") == "reset":
            missed = record.get("missed")
            lost = f", missed {missed['from']} to {missed['to']}" if missed else ""
            self._say(f"{after} starts over: {record['cause']}, {record['repair']}{lost}")
