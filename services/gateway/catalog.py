"""Which streams there are: what the tick logs hold, and what the stores know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from services.common.errors import BrokerFailed, BrokerUnavailable, InvalidSubject
from services.common.sharding import shard_of
from services.common.stream import Broker
from services.common.subjects import CHANNELS, StreamKey, check_token, is_pulse, key_of, tick_log
from services.gateway.stores import Stores

# A command may name thousands of products; the stores are not asked for more than so many of them.
_ASKED_AT_ONCE = 100


class Catalog:
    """Streams seen so far. A product never seen is asked for again at most every `refresh_s`."""

    def __init__(
        self,
        broker: Broker,
        stores: Stores,
        shard_count: int,
        refresh_s: float = 1.0,
    ) -> None:
        self._broker = broker
        self._stores = stores
        self._shard_count = shard_count
        self._refresh_s = refresh_s
        self._streams: dict[int, set[StreamKey]] = {shard: set() for shard in range(shard_count)}
        self._asked: dict[int, float] = {}
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
        asked = sorted(filter(_may_be, missing))[:_ASKED_AT_ONCE] if _may_be(venue) else []
        keys = [StreamKey(venue, channel, one) for one in asked for channel in CHANNELS]
        for key in await self._stores.known(keys):
            self._streams[shard_of(key.product, self._shard_count)].add(key)
        missing = self.unseen(venue, missing)
        return set(products) - missing

    def unseen(self, venue: str, products: Iterable[str]) -> set[str]:
        """Those of `products` that were never seen at `venue`; asks nobody."""
        return {product for product in products if not self._held(venue, product)}

    async def streams(self) -> list[StreamKey]:
        """All that are known, sorted.

        Raises:
            BrokerUnavailable: the logs do not answer.
        """
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
