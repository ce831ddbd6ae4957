"""Where streams are broken, and what became of it: the resets and late trades in their logs.

What was found is kept. Looking goes through whole logs, so it goes on where it stopped: a request
reads what came since the one before, and of long logs only a part; the next goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from services.common.errors import PositionLost
from services.common.sharding import shard_of
from services.common.stream import Broker, Message, Position
from services.common.subjects import StreamKey, tick_subject
from services.common.wire import UNREADABLE
from services.gateway.streams.record_reader import RecordReader

log = structlog.get_logger(__name__)

# Of each stream, the newest.
MOST_GAPS = 500
# Of each gap; how many there are in all is said beside them.
MOST_LATE_TRADES = 1000
_MARKS = (b'"type":"reset"', b'"type":"late"')
_PAGE = 1000
_NOWHERE = Position(0, 0)


@dataclass(slots=True)
class _Looked:
    """What is known of one stream's log up to `cursor`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    cursor: str = ""
    # The chain's last record there, and the last one that says anything of gaps.
    head: Position | None = None
    mark: Position = _NOWHERE
    found: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_GAPS))
    # When the head was reached last, if it was at the last look; and whether all is known.
    at: float = 0.0
    to_head: bool = False
    whole: bool = True


def _opened(reset: dict[str, Any]) -> dict[str, Any]:
    """A gap as the record says that announced it."""
    missed = reset.get("missed")
    if missed is None or reset["repair"] == "refilled":
        state = "refilled"
    else:
        # Single trades can be had afterwards; of a ticker or a book what came between is gone.
        state = "open" if reset["channel"] == "trades" else "lost"
    gap = {**reset, "state": state, "late_trades": [], "late_count": 0, "missing": [], "lost": []}
    if state == "open":
        gap["missing"] = [missed]
    elif state == "lost":
        gap["lost"] = [missed]
    return gap


def _add_late(gaps: deque[dict[str, Any]], late: dict[str, Any]) -> None:
    """Note what became known of a gap; of one that nobody remembers there is nothing to note."""
    hole = (late["missed"]["from"], late["missed"]["to"])
    for gap in reversed(gaps):
        missed = gap.get("missed")
        if missed is not None and (missed["from"], missed["to"]) == hole:
            break
    else:
        return
    gap["late_count"] += len(late["ticks"])
    room = MOST_LATE_TRADES - len(gap["late_trades"])
    gap["late_trades"] += late["ticks"][:room]
    gap["missing"] = late["open"]
    gap["lost"] += late["lost"]
    if not gap["missing"]:
        gap["state"] = "lost" if gap["lost"] else "refilled"


@dataclass
class GapHistory:
    """See the module's docstring."""

    broker: Broker  # the logs
    records: RecordReader  # reads what stands in them
    shard_count: int  # number of tick logs
    budget: int = 200_000  # records that one request looks through, in all streams together
    kept_s: float = 3.0  # how long what was found is not looked for again
    _looked: dict[StreamKey, _Looked] = field(default_factory=lambda: defaultdict(_Looked))

    async def of(self, keys: Sequence[StreamKey]) -> tuple[list[dict[str, Any]], bool]:
        """The gaps of these streams, in each one's order; whether that is all.

        Each is the reset that announced it, without its `state`, and beside that `state` (`open`:
        it is asked for still; `refilled`; `lost`: some of it will not come), `late_trades` (ticks
        that were found afterwards), `late_count`, `missing` (ranges that are open still) and `lost`
        (ranges that are given up).

        Raises:
            BrokerUnavailable: the log does not answer.
        """
        left = self.budget
        found: list[dict[str, Any]] = []
        complete = True
        for key in keys:
            looked = self._looked[key]
            async with looked.lock:
                if not looked.to_head or time.monotonic() - looked.at >= self.kept_s:
                    left -= await self._look(key, looked, left)
                found += looked.found
                complete = complete and looked.to_head and looked.whole
        return found, complete

    async def _look(self, key: StreamKey, looked: _Looked, most: int) -> int:
        """Go on looking, through `most` records; through how many it was."""
        subject = tick_subject(shard_of(key.product, self.shard_count), key)
        count = 0
        sought = looked.to_head = False
        while count < most and not looked.to_head:
            try:
                limit = min(_PAGE, most - count)
                page = await self.broker.read(subject, looked.cursor, limit=limit)
            except PositionLost:
                # What expired before it was looked at cannot be known any more.
                looked.whole = looked.whole and not looked.cursor
                looked.cursor = ""
                count += 1
                continue
            if looked.head is not None and not sought and self._skips(looked.head, page.messages):
                # A log that lost its end may hold other records at that place by now.
                sought = True
                looked.cursor = await self.broker.seek(subject, looked.head)
                continue
            count += len(page.messages)
            chained = (one.position for one in reversed(page.messages) if not one.position.sub)
            looked.head = next(chained, looked.head)
            marked = [one for one in page.messages if any(mark in one.payload for mark in _MARKS)]
            for record in self.records.read(marked):
                if record.kind not in ("reset", "late") or record.position <= looked.mark:
                    continue
                looked.mark = record.position
                try:
                    body = msgspec.json.decode(record.payload)
                except UNREADABLE as error:
                    # Its state may hold what only a reader of all of it finds.
                    log.error("record_unreadable", subject=subject, error=str(error))
                    continue
                if record.kind == "late":
                    _add_late(looked.found, body)
                    continue
                looked.whole = looked.whole and len(looked.found) < MOST_GAPS
                looked.found.append(_opened(body))
            looked.cursor = page.cursor
            looked.to_head = page.at_head
        looked.at = time.monotonic()
        return count

    def _skips(self, head: Position, messages: Sequence[Message]) -> bool:
        """Whether what was read does not follow the chain's record that was looked at last."""
        new = next((one for one in messages if one.position > head), None)
        if new is None:
            return False
        if new.position.sub:
            return new.position.seq != head.seq
        return not all(record.follows(head) for record in self.records.read([new]))
