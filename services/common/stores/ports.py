"""What the services need of the stores, without saying which stores they are.

The snapshotter writes latest rows and archive batches; the gateway reads them. Adapters:
`services/common/stores/dynamodb.py` and `s3.py` (reading side) and the snapshotter's `ddb.py` and
`s3.py` (writing side).

What reads raises `StoreUnavailable` when its store does not answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from services.common.stream import Position
from services.common.subjects import StreamKey


@dataclass(frozen=True, slots=True)
class StoredState:
    """The state of a stream at a position."""

    key: StreamKey  # the stream
    position: Position  # (epoch, seq) of the last record that is part of the state
    cursor: str  # the broker's cursor of that record, to go on reading from it
    shard: int  # the shard whose tick log the cursor belongs to
    ts_snapshot: int  # when the state was taken, microseconds
    state: bytes  # JSON as in `Snapshot.state`


@dataclass(frozen=True, slots=True)
class LatestRow(StoredState):
    """The newest known state; a book holds its best 50 levels a side only.

    `checkpoint` is the S3 key of the full book's checkpoint, for books.
    """

    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint(StoredState):
    """A whole book."""


class LatestReader(ABC):
    """Reads latest rows.

    Every method raises `StoreMissing` when there is no table (yet: in development the snapshotter
    makes it).
    """

    @abstractmethod
    async def get(self, key: StreamKey) -> LatestRow | None: ...

    @abstractmethod
    async def get_many(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, LatestRow]:
        """The rows that exist, in as few calls as the store allows."""


class CheckpointReader(ABC):
    @abstractmethod
    async def get_checkpoint(self, object_key: str) -> Checkpoint | None:
        """The checkpoint a row names, or None when it is gone."""


class ArchiveReader(ABC):
    @abstractmethod
    def read(self, key: StreamKey, shard: int, after: Position) -> AsyncGenerator[bytes]:
        """The archived tick records of a stream with a position > `after`, in order, as published.

        Close it (`contextlib.aclosing`) when it is not read to its end.
        """

    @abstractmethod
    async def reached(self, key: StreamKey, shard: int, ts: int) -> Position | None:
        """How far the stream was archived at `ts` (microseconds); None when nothing was.

        Whatever was received at `ts` or later has a greater position.
        """
