"""Makes a stream as the last process left it, from the stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from services.common.domain.book import BadLevel
from services.common.errors import StoreError
from services.common.runtime import patiently
from services.common.sharding import shard_of
from services.common.stores.index import Head
from services.common.stores.ports import CheckpointReader, LatestReader, LatestRow
from services.common.subjects import StreamKey
from services.common.wire import UNREADABLE
from services.snapshotter.stream import Stream, View

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Restorer:
    """Reads latest rows and checkpoints; `on_error` is told of each reading that is tried again."""

    _latest: LatestReader
    _checkpoints: CheckpointReader
    _shard_count: int
    _on_error: Callable[[StoreError], None]

    async def restore(
        self,
        subjects: Mapping[StreamKey, str],
        shard: int | None,
        heads: Mapping[str, Head],
    ) -> list[Stream]:
        """Streams for these subjects of one tick log, or of the raw log when `shard` is None.

        Waits for the stores as long as it takes.
        """
        views: Mapping[StreamKey, View] = {}
        if shard is not None:
            keys = list(subjects)
            views = await patiently(lambda: self._views(keys), StoreError, self._on_error)
        return [
            Stream(
                key,
                subject,
                shard_of(key.product, self._shard_count) if shard is None else shard,
                views.get(key),
                heads.get(str(key)),
            )
            for key, subject in subjects.items()
        ]

    async def _views(self, keys: list[StreamKey]) -> dict[StreamKey, View]:
        rows = await self._latest.get_many(keys)
        return {key: await self._view(key, rows.get(key)) for key in keys}

    async def _view(self, key: StreamKey, row: LatestRow | None) -> View:
        view = View(key)
        if row is None:
            return view
        view.written(row.position)
        try:
            if key.channel != "book":
                view.load(row.position, row.cursor, row.state)
            elif row.checkpoint is not None:
                # The row has the best levels only; the log after the checkpoint has the rest.
                held = await self._checkpoints.get_checkpoint(row.checkpoint)
                if held is not None:
                    view.load(held.position, held.cursor, held.state)
                    view.checkpoint = row.checkpoint
                    view.checkpointed = held.position
        except (*UNREADABLE, BadLevel) as error:
            # The log is read from its beginning instead.
            log.warning("stored_state_unreadable", stream=str(key), reason=str(error))
            return View(key)
        return view
