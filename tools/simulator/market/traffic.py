"""How lively a market is made: the figures of the venue's own traffic, as measured. Pure.

Sources: 60 s of BTC-USD and ETH-USD in July 2026 (`level2_batch`, `matches`, `heartbeat`), 31 s of
ten small products in April 2021 (`level2`). Batches were 32 to 231 ms apart (median 59), of 1 to
189 changes (median 5, mean 9); 13 to 24 % of deletes named a level that nobody held; a match's
sequence stood 2 to 1,792 above the one before it; 24 of 118 heartbeats were dated one microsecond
after their second; 15 % of `level2` updates shared the time of the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

MAX_BATCH = 189
MAX_STEP = 1_792


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is added to a plain market, in which each order comes alone.

    Args:
        batch_us: median time between two level 2 batches of a product.
        batch_spread: sigma of its logarithm; 0 is always the same.
        burst_spread: sigma of the logarithm of how many orders come together; 0 is always one.
        flicker: share of orders in a burst that are withdrawn in the same moment.
        fleeting_spread: sigma of the logarithm of how many orders that never rest come before each
            other; 0 is none. They move the sequence, and only `full` and `level3` show them.
        same_time: share of a burst's orders that have the time of the one before.
        late_beats: share of heartbeats one microsecond after the second.
        modified: share of quiet orders that move a resting order to another price.
        activated: share of market orders that were stop orders.
    """

    batch_us: int = 50_000
    batch_spread: float = 0.0
    burst_spread: float = 0.0
    flicker: float = 0.0
    fleeting_spread: float = 0.0
    same_time: float = 0.0
    late_beats: float = 0.0
    modified: float = 0.0
    activated: float = 0.0

    def pause_us(self, rng: Random) -> int:
        """Until the next batch."""
        if not self.batch_spread:
            return self.batch_us
        pause = rng.lognormvariate(math.log(self.batch_us), self.batch_spread)
        return round(min(231_000, max(3_000, pause)))

    def burst(self, rng: Random) -> int:
        """How many quiet orders come together, at least one."""
        if not self.burst_spread:
            return 1
        return min(MAX_BATCH, max(1, round(rng.lognormvariate(0.3, self.burst_spread))))

    def fleeting(self, rng: Random) -> int:
        """How many orders that never rest come before the next."""
        if not self.fleeting_spread:
            return 0
        return min(MAX_STEP // 2 - 1, int(rng.lognormvariate(0.7, self.fleeting_spread)))


PLAIN = Traffic()
VENUE = Traffic(
    batch_us=59_000,
    batch_spread=0.35,
    burst_spread=1.5,
    flicker=0.12,
    fleeting_spread=1.7,
    same_time=0.15,
    late_beats=0.2,
    modified=0.02,
    activated=0.02,
)
TRAFFICS = {"plain": PLAIN, "venue": VENUE}
