"""Gap figures as the ingestor's metrics tell them."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

# Outcomes of `md_resync_total` that end a gap well; every other one leaves it unhealed.
HEALED = frozenset({"healed", "refilled", "snapshot", "rebased", "refreshed"})


@dataclass(frozen=True)
class GapFigures:
    """Totals since the ingestor started; `resyncs` by outcome."""

    detected: int = 0
    healed: int = 0
    resyncs: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> GapFigures:
        """Read them from an exposition in Prometheus' text format."""
        detected = 0.0
        resyncs: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "md_seq_gap_total":
                    detected += sample.value
                elif sample.name == "md_resync_total":
                    outcome = sample.labels.get("outcome", "")
                    resyncs[outcome] = resyncs.get(outcome, 0) + sample.value
        return cls(
            int(detected),
            int(sum(count for outcome, count in resyncs.items() if outcome in HEALED)),
            {outcome: int(count) for outcome, count in sorted(resyncs.items())},
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
