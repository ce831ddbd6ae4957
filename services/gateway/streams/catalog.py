"""Which streams there are: what the tick logs hold, and what the stores know."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable

from services.common.errors import BrokerFailed, BrokerUnavailable, InvalidSubject
from services.common.resilience import TokenBucket
from services.common.sharding import shard_of
from services.common.subjects import CHANNELS, StreamKey, check_token, is_pulse, key_of, tick_log
from services.gateway.streams.feed import FeedSources

# A command may name many products; the stores are not asked for more than so many of them at once,
# and not again for a while for one that they did not have.
_ASKED_AT_ONCE = 100
_ABSENT_S = 10.0
_ABSENT_KEPT = 10_000


class Catalog:
    """Streams seen so far. A log is asked every `refresh_s` at most for products never seen."""

    def __init__(self, sources: FeedSources, refresh_s: float = 1.0) -> None:
        self._broker = sources.broker
        self._stores = sources.stores
        self._metrics = sources.metrics
        self._shard_count = shard_count = sources.settings.shard_count
        self._refresh_s = refresh_s
        self._streams: dict[int, set[StreamKey]] = {shard: set() for shard in range(shard_count)}
        self._asked: dict[int, float] = {}
        # Names are anybody's, and a read of the stores for each would be the platform's cost.
        asked_per_s = sources.settings.unknown_products_per_sec
        self._questions = TokenBucket(asked_per_s, _ASKED_AT_ONCE, time.monotonic())
        # Products that the stores did not have, until when nobody asks again; oldest first.
        self._absent: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._locks = [asyncio.Lock() for _ in range(shard_count)]

    async def knows(self, venue: str, products: Iterable[str]) -> set[str]:
        """Those of `products` that have any stream at `venue`; asks only for those never seen.

        Raises:
            BrokerUnavailable: the log does not answer, and one of them was never seen.
        """
        missing = self.unseen(venue, products)
        shards = {shard_of(product, self._shard_count) for product in missing}
        await self._refresh_all(shards)
        missing = self.unseen(venue, missing)
        # Without the stores a product that is only there stays unknown for now.
        asked = self._worth_asking(venue, missing) if _may_be(venue) else []
        keys = [StreamKey(venue, channel, one) for one in asked for channel in CHANNELS]
        stored = await self._stores.known(keys)
        for key in stored or ():
            self._streams[shard_of(key.product, self._shard_count)].add(key)
        missing = self.unseen(venue, missing)
        for product in missing.intersection(asked) if stored is not None else ():
            self._absent[venue, product] = time.monotonic() + _ABSENT_S
            if len(self._absent) > _ABSENT_KEPT:
                self._absent.popitem(last=False)
        return set(products) - missing

    def _worth_asking(self, venue: str, products: Iterable[str]) -> list[str]:
        """Those of `products` that the stores may have and may be asked for now."""
        now = time.monotonic()
        while self._absent and next(iter(self._absent.values())) <= now:
            self._absent.popitem(last=False)
        found: list[str] = []
        for product in sorted(filter(_may_be, products)):
            if (venue, product) in self._absent:
                self._metrics.unknown_products.labels("remembered").inc()
            elif len(found) < _ASKED_AT_ONCE and self._questions.acquire(now) == 0:
                self._metrics.unknown_products.labels("asked").inc()
                found.append(product)
            else:
                self._metrics.unknown_products.labels("limited").inc()
        return found

    def unseen(self, venue: str, products: Iterable[str]) -> set[str]:
        """Those of `products` that were never seen at `venue`; asks nobody."""
        return {product for product in products if not self._held(venue, product)}

    async def streams(self) -> list[StreamKey]:
        """All that are known, sorted. Raises BrokerUnavailable when the logs do not answer."""
        await self._refresh_all(range(self._shard_count))
        return sorted(key for held in self._streams.values() for key in held)

    def _held(self, venue: str, product: str) -> bool:
        held = self._streams[shard_of(product, self._shard_count)]
        return any(StreamKey(venue, channel, product) in held for channel in CHANNELS)

    async def _refresh_all(self, shards: Iterable[int]) -> None:
        failed: list[BrokerUnavailable | BrokerFailed] = []

        async def refresh(shard: int) -> None:
            try:
                await self._refresh(shard)
            except (BrokerUnavailable, BrokerFailed) as error:
                failed.append(error)

        async with asyncio.TaskGroup() as group:
            for shard in shards:
                group.create_task(refresh(shard), name=f"catalog:{shard}")
        if failed:
            raise failed[0]

    async def _refresh(self, shard: int) -> None:
        async with self._locks[shard]:
            asked = self._asked.get(shard)
            if asked is not None and time.monotonic() - asked < self._refresh_s:
                return
            subjects = await self._broker.subjects(tick_log(shard))
            self._asked[shard] = time.monotonic()
            for subject in subjects:
                if is_pulse(subject):
                    continue
                try:
                    self._streams[shard].add(key_of(subject))
                except InvalidSubject:
                    # Not written by this platform; nobody can subscribe to it.
                    continue


def _may_be(name: str) -> bool:
    """Whether a venue or product can have this name at all."""
    try:
        check_token(name)
    except InvalidSubject:
        return False
    return True
