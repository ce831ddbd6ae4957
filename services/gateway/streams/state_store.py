"""Stored states that chains may begin with; a store that does not answer holds nobody up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from services.common.errors import StoreError
from services.common.observability.health import Health
from services.common.stores.ports import CheckpointReader, LatestReader, StoredState
from services.common.subjects import StreamKey
from services.gateway.metrics import Metrics

log = structlog.get_logger(__name__)

# A subscriber waits for this; the log can serve without.
_ANSWER_S = 1.5
# After a failure nobody asks for so long.
_PAUSE_S = 5.0


@dataclass
class StateStore:
    """Reads latest rows and checkpoints; without readers, or while they fail, it knows nothing."""

    latest: LatestReader | None
    checkpoints: CheckpointReader | None
    health: Health
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    _paused_until: float = 0.0

    def __post_init__(self) -> None:
        self._circuit = self.metrics.circuit.labels("stores")

    async def base(self, key: StreamKey, shard: int) -> StoredState | None:
        """The newest whole state of a stream, if there is one and the stores answer.

        Its cursor is that of the log of `shard`, or "" when that is not known. A book's row holds
        its best levels only, so a book begins with its checkpoint.
        """
        if self.latest is None:
            return None
        row = await self._ask(self.latest.get(key))
        found: StoredState | None = row
        if row is not None and key.channel == "book":
            found = None
            if row.checkpoint is not None and self.checkpoints is not None:
                found = await self._ask(self.checkpoints.get_checkpoint(row.checkpoint))
        if found is None:
            return None
        # A cursor belongs to one log; with another number of shards the stream moved to another.
        return found if found.shard == shard else replace(found, cursor="")

    async def known(self, keys: Sequence[StreamKey]) -> list[StreamKey] | None:
        """Those of `keys` that have a row; None: the stores do not answer."""
        if self.latest is None or not keys:
            return []
        found = await self._ask(self.latest.get_many(keys))
        return None if found is None else list(found)

    async def _ask[T](self, question: Awaitable[T]) -> T | None:
        if self.clock() < self._paused_until:
            if asyncio.iscoroutine(question):
                question.close()
            return None
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await question
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"no answer within {_ANSWER_S} s"
            log.warning("store_read_failed", reason=reason)
            self._paused_until = self.clock() + _PAUSE_S
            self.health.degraded("stores", reason)
            self._circuit.set(2)
            return None
        self.health.restored("stores")
        self._circuit.set(0)
        return answer
