"""What the snapshotter reads from the environment."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from services.common.settings import AwsSettings, CommaList, CommonSettings, split_commas
from services.common.sharding import parse_shards


class SnapshotterSettings(CommonSettings, AwsSettings):
    snapshot_period_ms: float = Field(250, gt=0)
    """A stream's latest row is written at most this often, milliseconds."""
    archive_period_s: float = Field(60, gt=0)
    """An archive batch is written when its first record is this old."""
    archive_max_bytes: int = Field(5_000_000, gt=0, le=100_000_000)
    """An archive batch is written when it has so many bytes of JSON."""
    archive_raw: bool = True
    """Whether raw records are archived too."""
    checkpoint_period_s: float = Field(10, gt=0)
    """A changed book's checkpoint is written at most this often."""
    snapshotter_shards: CommaList = ("all",)
    """Tick logs to take: `all`, or numbers and ranges such as `0-3,6`."""
    snapshot_writers: int = Field(32, ge=1, le=512)
    """Row writes in flight at most."""
    buffer_max_bytes: int = Field(256_000_000, ge=16_000_000)
    """Records held until they are stored; beyond it nothing more is taken."""
    max_pending: int = Field(65_536, ge=1024)
    """Unacked records of one log at most."""
    stop_grace_s: float = Field(20, gt=0)
    """How long a stopping snapshotter tries to store what it holds."""

    _split_shards = field_validator("snapshotter_shards", mode="before")(split_commas)

    @model_validator(mode="after")
    def _shards_exist(self) -> Self:
        text = ",".join(self.snapshotter_shards)
        try:
            parse_shards(text, self.shard_count)
        except ValueError as error:
            raise ValueError(f"SNAPSHOTTER_SHARDS={text!r}: {error}") from error
        return self

    @property
    def shards(self) -> list[int]:
        """The shards whose tick logs this process takes."""
        return sorted(parse_shards(",".join(self.snapshotter_shards), self.shard_count))

    @property
    def group(self) -> str:
        return self.consumer_group or "snapshotter"

    @property
    def ack_wait_s(self) -> float:
        """A record is acked one archive period after it came, plus the writing, at the latest."""
        return 2 * self.archive_period_s + 30
