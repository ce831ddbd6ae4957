"""Of which streams it is known that what is stored next stands on what it follows."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.errors import LogWentBack
from services.common.stream.holes import Predecessor, first_on_a_hole
from services.common.stream.records import Position, Record
from services.common.stream.redis.client import RedisClient, refusal
from services.common.stream.redis.records import Names, Source, parse_id
from services.common.stream.redis.store_script import Sent


class Proof:
    """Asks a stream for its newest id before the first record is stored there since an outage."""

    def __init__(self, client: RedisClient, names: Names, predecessor: Predecessor | None) -> None:
        self._client = client
        self._names = names
        self._predecessor = predecessor
        # None before the first outage: what is published was computed from what the log holds.
        self._proven: set[Source] | None = None

    def doubt(self) -> None:
        """The server may have less than before."""
        self._proven = set()

    async def check(self, items: Sequence[Sent]) -> None:
        """Return when all of these, in this order, may be stored.

        Raises:
            LogWentBack: one would stand above a hole.
            BrokerUnavailable: the server does not answer.
        """
        proven = self._proven
        if proven is None:
            return
        unproven = [item for item in items if item.source not in proven]
        if unproven:
            _, hole = await self.sort_out(unproven)
            if hole is not None:
                raise hole
            proven.update(item.source for item in unproven)

    async def sort_out(self, items: Sequence[Sent]) -> tuple[Sequence[Sent], LogWentBack | None]:
        """Those of these that may be stored now, in their order; and why others may not.

        Raises:
            BrokerUnavailable: the server does not answer.
        """
        predecessor = self._predecessor
        if predecessor is None:
            return items, None
        records: dict[Source, list[Record]] = {}
        for item in items:
            records.setdefault(item.source, []).append(item.record)
        holes: dict[Source, LogWentBack] = {}
        asked = [("XINFO STREAM", self._names.stream(source)) for source in records]
        for source, answer in zip(records, await self._client.batch(asked), strict=True):
            text = refusal(answer)
            if text is None:
                newest = Position(source.epoch, *parse_id(answer["last-generated-id"]))
            elif "no such key" in text:
                newest = None
            else:
                # Nothing can be stored there either, which is then told.
                continue
            found = first_on_a_hole(newest, records[source], predecessor)
            if found is not None:
                holes[source] = LogWentBack(found.subject, found.position, newest)
        if not holes:
            return items, None
        standing = [
            item
            for item in items
            if (hole := holes.get(item.source)) is None or item.record.position < hole.position
        ]
        return standing, next(iter(holes.values()))
