"""Gap figures as the ingestor's metrics tell them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

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
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            try:
                answer = await client.get(f"{ingestor_url}/metrics")
                answer.raise_for_status()
            except httpx.HTTPError:
                return None
        return cls.parse(answer.text)
