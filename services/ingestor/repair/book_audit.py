"""Auditing books: what was passed on is compared with the venue's REST book.

A lost `l2update` leaves no trace in its own channel. Each book has its turn, the busiest first; one
that a ticker, a trade or its own two sides contradict is compared at once. The comparison only
speaks of levels that nothing happened to, from a while before the image until the feed has gone
past it, and a level has to be wrong in two images running: whatever is only late, cached or in
between is never an alarm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import structlog

from services.common.clock import now_us
from services.common.errors import VenueError
from services.common.wire import UNREADABLE
from services.ingestor.integrity.book_replica import Batch, BookReplica
from services.ingestor.integrity.suspicion import Key
from services.ingestor.repair.audit_turns import AuditTurns, Suspicions
from services.ingestor.streams import BookStream, ProductStreams
from services.ingestor.venues.base import BookImage, VenueRest

log = structlog.get_logger(__name__)

# How often what was put aside is folded: the later, the more updates of one level are one.
_FOLD_S = 5.0
# Levels must have been left alone for this long before an image is asked for.
_CALM_S = 1.0
# In a quiet market heartbeats say that the feed has gone past an image, and they may overtake
# updates: this much later is late enough, µs.
_OVERTAKEN_US = 1_000_000
# How long to wait for the feed to go past an image.
_PASSED_S = 10.0
# How often to look.
_LOOK_S = 0.05
# Audits under way together, at most.
_TOGETHER = 16
# A lost replica is given a new base at most this often.
_REVIVED_AGAIN_S = 30.0


class Outcome(Enum):
    """How an audit ended; values are the label of `md_book_audit_total`."""

    PASSED = "passed"
    MISMATCH = "mismatch"
    CROSSED = "crossed"
    # The book was re-based meanwhile, the venue did not answer, or its answer could not be placed.
    INCONCLUSIVE = "inconclusive"
    # Prices and sizes are indicative, bids may exceed asks.
    AUCTION = "auction"


# Nothing is held against the book.
_RIGHT = (Outcome.PASSED, Outcome.AUCTION)


class Auditor:
    """Compares one product after the other, for ever."""

    def __init__(
        self,
        rest: VenueRest,
        products: Callable[[], Iterable[ProductStreams]],  # those that are served now
        period_s: float,  # the longest pause from the beginning of one audit to the next one's
        counted: Callable[[str], None],  # told each outcome
        turn_s: float = 300.0,  # within this time each product's book is compared
        suspected: Callable[[], None] = lambda: None,  # told of each suspicion
    ) -> None:
        self._rest = rest
        self._products = products
        self._fold_s = min(_FOLD_S, period_s)
        self._counted = counted
        self._suspected = suspected
        self._turns = AuditTurns(turn_s, period_s)
        self._suspicions = Suspicions()
        self._under_way: set[str] = set()
        self._revived_at: dict[str, float] = {}
        self._folding = asyncio.Lock()

    async def run(self) -> None:
        """Audit until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look(group), name="audit:look")
            group.create_task(self._take_turns(group), name="audit:turns")

    async def _take_turns(self, group: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(self._turns.pause_s(len(self._streams())))
            if len(self._under_way) >= _TOGETHER:
                continue
            streams = self._streams()
            messages = {product: stream.messages for product, stream in streams.items()}
            chosen = self._turns.next(messages, self._under_way)
            if chosen is not None:
                self._start(group, chosen, streams[chosen])

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Fold, and look at what contradicts the books."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._fold_s)
            streams = self._streams()
            replicas = {
                product: stream.replica
                for product, stream in streams.items()
                if stream.replica is not None and stream.replica.usable
            }
            found = await self._judge(replicas)
            for product, stream in streams.items():
                self._revive(product, stream, clock())
                reason = found.get(product)
                if reason is None or stream.suspect:
                    continue
                if self._suspicions.raised(product, clock()):
                    self._suspected()
                    log.info("book_suspected", product=product, reason=reason)
            for product in self._suspicions.due(clock()):
                if product in streams and len(self._under_way) < _TOGETHER:
                    self._start(group, product, streams[product])

    def _revive(self, product: str, stream: BookStream, now: float) -> None:
        """A book that can be compared no more is as good as unproven: have a new base sent."""
        replica = stream.replica
        if replica is None or not replica.lost or stream.suspect or not stream.based:
            return
        if now - self._revived_at.get(product, -_REVIVED_AGAIN_S) >= _REVIVED_AGAIN_S:
            self._revived_at[product] = now
            stream.distrust("audit", "what was passed on could not be followed", now_us())

    async def audit(self, product: str, stream: BookStream) -> Outcome:
        """Compare one product's book now; a mismatch is told to its stream."""
        replica = stream.replica
        if replica is None or not replica.usable or stream.suspect:
            return Outcome.INCONCLUSIVE
        bases, began = replica.bases, now_us()
        try:
            await self._fold(replica)
            crossed = replica.crossed
            replica.watch()
            suspects: dict[Key, tuple[str, str]] | None = None
            while True:
                found = await self._compare(product, stream, replica, bases)
                if isinstance(found, Outcome):
                    return found
                if crossed and replica.crossed:
                    stream.distrust("crossed", "the best bid is not below the best ask", now_us())
                    return Outcome.CROSSED
                if suspects is not None:
                    found = {level: sizes for level, sizes in found.items() if level in suspects}
                if not found:
                    stream.audited = began
                    return Outcome.PASSED
                if suspects is not None:
                    self._mismatch(product, stream, found)
                    return Outcome.MISMATCH
                suspects = found
        finally:
            replica.unwatch()

    async def _compare(
        self, product: str, stream: BookStream, replica: BookReplica, bases: int
    ) -> dict[Key, tuple[str, str]] | Outcome:
        began = stream.venue_time
        await asyncio.sleep(_CALM_S)
        try:
            image = await self._rest.book(product, background=True)
        except VenueError as error:
            log.info("book_not_audited", product=product, reason=str(error))
            return Outcome.INCONCLUSIVE
        if image.auction:
            return Outcome.AUCTION
        # An image older than the watch is a cache's.
        if image.time < began or not await self._passed(stream, image):
            return Outcome.INCONCLUSIVE
        await self._fold(replica)
        if replica.bases != bases or not replica.usable or stream.suspect:
            return Outcome.INCONCLUSIVE
        try:
            async with self._folding:
                return await asyncio.to_thread(replica.contradicted, image.body)
        except UNREADABLE as error:
            log.info("book_not_audited", product=product, reason=str(error))
            return Outcome.INCONCLUSIVE

    @staticmethod
    async def _passed(stream: BookStream, image: BookImage) -> bool:
        """Wait until everything up to the image has been received, or was lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PASSED_S
        while stream.update_time <= image.time:
            if stream.venue_time > image.time + _OVERTAKEN_US:
                return True
            if stream.suspect or loop.time() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    @staticmethod
    def _mismatch(product: str, stream: BookStream, found: dict[Key, tuple[str, str]]) -> None:
        (side, price), (ours, theirs) = min(found.items())
        text = (
            f"{len(found)} levels differ from the venue's book, "
            f"{side} {price:f} is {theirs} there and {ours} here"
        )
        log.warning("book_audit_mismatch", product=product, levels=len(found), first=text)
        stream.distrust("audit", text, now_us())

    def _streams(self) -> dict[str, BookStream]:
        return {
            streams.product: streams.book
            for streams in self._products()
            if isinstance(streams.book, BookStream)
        }

    def _start(self, group: asyncio.TaskGroup, product: str, stream: BookStream) -> None:
        if product not in self._under_way:
            self._under_way.add(product)
            group.create_task(self._counted_audit(product, stream), name=f"audit:{product}")

    async def _counted_audit(self, product: str, stream: BookStream) -> None:
        try:
            outcome = await self.audit(product, stream)
        finally:
            self._under_way.discard(product)
        self._counted(outcome.value)
        right, conclusive = outcome in _RIGHT, outcome is not Outcome.INCONCLUSIVE
        if conclusive:
            self._turns.judged(product, right=right)
        now = asyncio.get_running_loop().time()
        self._suspicions.audited(product, now, right=right, conclusive=conclusive)

    async def _fold(self, replica: BookReplica) -> None:
        """Fold in another thread: a whole book takes tens of milliseconds."""
        async with self._folding:
            batch = replica.pop_updates()
            if batch:
                await asyncio.to_thread(replica.fold, batch)

    async def _judge(self, replicas: Mapping[str, BookReplica]) -> dict[str, str]:
        """Fold them all; what contradicts which book."""
        async with self._folding:
            work = [
                (product, replica, replica.pop_updates(), replica.pop_evidence())
                for product, replica in replicas.items()
            ]
            return await asyncio.to_thread(_judge_all, work)


def _judge_all(
    work: Iterable[tuple[str, BookReplica, Batch, list[bytes]]],
) -> dict[str, str]:
    found: dict[str, str] = {}
    for product, replica, batch, evidence in work:
        replica.fold(batch)
        reason = replica.judge(evidence)
        if replica.crossed:
            reason = "the best bid is not below the best ask"
        if reason is not None:
            found[product] = reason
    return found
