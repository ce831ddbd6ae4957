"""Which logs the platform keeps, and for how long. Every service ensures them at its start."""

from __future__ import annotations

from services.common.settings import CommonSettings
from services.common.stream.broker import LogSpec
from services.common.subjects import INVALID_LOG, RAW_LOG, tick_log


def log_specs(settings: CommonSettings) -> list[LogSpec]:
    """Every log of the platform, kept for as long as the settings say."""
    retention_s = settings.js_retention_minutes * 60
    logs = [RAW_LOG, *(tick_log(shard) for shard in range(settings.shard_count)), INVALID_LOG]
    return [LogSpec(log, retention_s) for log in logs]
