"""Which broker the settings name. Called by composition roots only; drivers are imported lazily."""

from __future__ import annotations

from services.common.settings import CommonSettings
from services.common.stream.broker import Broker, LogSpec
from services.common.subjects import INVALID_LOG, RAW_LOG, tick_log


def open_broker(settings: CommonSettings) -> Broker:
    """A broker that is not open yet: use it with `async with`, or call `open` and `aclose`."""
    match settings.broker_kind:
        case "nats":
            from services.common.stream.nats import NatsBroker

            return NatsBroker(
                settings.nats_urls,
                prefix=settings.js_stream_name,
                creds_file=settings.nats_creds_file,
                replicas=settings.js_replicas,
            )
        case "redis":
            from services.common.stream.redis import RedisBroker

            return RedisBroker(settings.redis_url, prefix=settings.stream_name)
        case "memory":
            from services.common.stream.memory import MemoryBroker

            return MemoryBroker()


def log_specs(settings: CommonSettings) -> list[LogSpec]:
    """Every log of the platform, kept for as long as the settings say."""
    retention_s = settings.js_retention_minutes * 60
    logs = [RAW_LOG, *(tick_log(shard) for shard in range(settings.shard_count)), INVALID_LOG]
    return [LogSpec(log, retention_s) for log in logs]
