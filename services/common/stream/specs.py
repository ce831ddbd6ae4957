"""Which logs the platform keeps, and for how long. Every service ensures them at its start."""

from __future__ import annotations

from services.common.settings import CommonSettings
from services.common.stream.records import LogSpec
from services.common.subjects import INVALID_LOG, RAW_LOG, tick_log


def log_specs(settings: CommonSettings) -> list[LogSpec]:
    """Every log of the platform, kept for as long and as large as the settings say."""
    retention_s = settings.js_retention_minutes * 60
    shards = settings.shard_count
    return [
        LogSpec(RAW_LOG, retention_s, max_bytes=settings.js_raw_max_bytes),
        *(
            LogSpec(tick_log(shard), retention_s, max_bytes=settings.js_tick_max_bytes // shards)
            for shard in range(shards)
        ),
        LogSpec(INVALID_LOG, retention_s, max_bytes=settings.js_invalid_max_bytes),
    ]
