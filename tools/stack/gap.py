"""A gap made on purpose: its story, line by line, and the figures that the ingestor counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tools.subscribed_book import record_of
from tools.subscriber import Message

# Time for the board to show what normal looks like.
_BEFORE_S = 4.0
# For an answer on a machine that has much to do.
_PATIENCE_S = 30.0
_DROPPED = 40
_TYPES = ("match", "ticker", "l2update")
# Outcomes of `md_resync_total` after which nothing is missing; the others say what was lost.
HEALED = frozenset({"refilled", "late", "snapshot"})


@dataclass(frozen=True)
class GapFigures:
    """Totals since the ingestor started; `outcomes` of all resyncs by name."""

    detected: int = 0
    healed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> GapFigures:
        """Read them from an exposition in Prometheus' text format."""
        found: Counter[str] = Counter()
        healed: Counter[str] = Counter()
        outcomes: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                count = int(sample.value)
                stream = f"{sample.labels.get('channel')}:{sample.labels.get('product')}"
                if sample.name == "md_seq_gap_total":
                    found[stream] += count
                elif sample.name == "md_resync_total":
                    outcome = sample.labels.get("outcome", "")
                    outcomes[outcome] += count
                    if outcome in HEALED:
                        healed[stream] += count
        return cls(
            found.total(),
            # A book is also based anew after a reconnect, when nobody spoke of a gap.
            sum(min(count, healed[stream]) for stream, count in found.items()),
            dict(sorted(outcomes.items())),
        )

    @classmethod
    async def read(cls, ingestor_url: str) -> GapFigures | None:
        """Ask a running ingestor; None when it does not answer."""
        async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
            try:
                answer = await client.get(f"{ingestor_url}/metrics")
                answer.raise_for_status()
            except httpx.HTTPError:
                return None
        return cls.parse(answer.text)


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
        async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
            answer = await client.post(
                f"{exchange_url}/_control/faults",
                json={"drop": {"count": _DROPPED, "products": [product], "types": list(_TYPES)}},
            )
            answer.raise_for_status()
        self._say(f"\n[gap] the exchange drops the next {_DROPPED} messages of {product}")

    def conclude(self, figures: GapFigures) -> None:
        outcomes = ", ".join(f"{count} {name}" for name, count in figures.outcomes.items())
        self._say(
            f"[gap] the ingestor found {figures.detected} and healed {figures.healed}"
            f"{f' ({outcomes})' if outcomes else ''}"
        )

    def take(self, message: Message, now: float) -> None:
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
