"""Latencies counted in buckets that grow by 5 %: constant memory, quantiles within 5 %. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_GROWTH = math.log(1.05)


@dataclass(slots=True)
class LatencyHistogram:
    """Durations in microseconds; what is below one microsecond counts as one.

    `buckets`: how many durations by the power of 1.05 that bounds them.
    """

    count: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, micros: float) -> None:
        bucket = math.ceil(math.log(max(micros, 1.0)) / _GROWTH)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: LatencyHistogram) -> None:
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count

    def quantile(self, q: float) -> float | None:
        """Upper bound, in microseconds, of the bucket holding the `q` quantile; None when empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return math.exp(bucket * _GROWTH)
        raise AssertionError("the buckets hold fewer values than were counted")

    def quantile_ms(self, q: float) -> float | None:
        """`quantile` in milliseconds, rounded to a hundredth."""
        micros = self.quantile(q)
        return None if micros is None else round(micros / 1000, 2)
