"""Latencies counted in buckets that grow by 5 %: constant memory, quantiles within 5 %. Pure."""

from __future__ import annotations

import math

_GROWTH = math.log(1.05)


class LatencyHistogram:
    """Durations in microseconds; what is below one microsecond counts as one."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, micros: float) -> None:
        bucket = math.ceil(math.log(max(micros, 1.0)) / _GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: LatencyHistogram) -> None:
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count

    def buckets(self) -> list[list[int]]:
        """Its contents, for `of`."""
        return [[bucket, count] for bucket, count in self._buckets.items()]

    @classmethod
    def of(cls, buckets: list[list[int]]) -> LatencyHistogram:
        """The histogram that `buckets` came from."""
        found = cls()
        found._buckets.update((row[0], row[1]) for row in buckets)
        found.count = sum(found._buckets.values())
        return found

    def quantile(self, q: float) -> float | None:
        """Upper bound, in microseconds, of the bucket holding the `q` quantile; None when empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return math.exp(bucket * _GROWTH)
        raise AssertionError("the buckets hold fewer values than were counted")
