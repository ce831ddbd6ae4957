"""The normalizer's settings."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from services.common.settings import CommonSettings
from services.normalizer.shard import parse_shards, shard_label


class NormalizerSettings(CommonSettings):
    normalizer_shards: str = "all"
    """Shards this process works on: `all`, or like `0-3` or `1,4-6`."""
    normalizer_max_batch: int = Field(512, ge=1, le=8192)
    """Raw records taken from the log at a time."""
    normalizer_max_pending: int = Field(8192, ge=1, le=65_536)
    """Raw records taken and not yet acknowledged, at most."""

    normalizer_standby: bool = False
    """Whether one of the group works and the others stand by; else all of them share the work."""
    normalizer_takeover_ms: int = Field(600, ge=200)
    """How long the one that works may be silent before another takes over, ms."""

    @model_validator(mode="after")
    def _shards_exist(self) -> Self:
        try:
            parse_shards(self.normalizer_shards, self.shard_count)
        except ValueError as error:
            raise ValueError(f"NORMALIZER_SHARDS={self.normalizer_shards!r}: {error}") from error
        return self

    @property
    def shards(self) -> frozenset[int]:
        return parse_shards(self.normalizer_shards, self.shard_count)

    @property
    def shards_label(self) -> str:
        return shard_label(self.shards, self.shard_count)

    @property
    def group(self) -> str:
        """The consumer group: one for each set of shards, so that each sees every record."""
        return f"{self.consumer_group or 'normalizer'}-{self.shards_label}"
