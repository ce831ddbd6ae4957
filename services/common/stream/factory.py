"""Which broker the settings name. Called by composition roots only; drivers are imported lazily."""

from __future__ import annotations

from services.common.settings import CommonSettings
from services.common.stream.broker import Broker


def open_broker(settings: CommonSettings) -> Broker:
    """A broker that is not open yet: use it with `async with`, or call `open` and `aclose`."""
    match settings.broker_kind:
        case "nats":
            from services.common.stream.nats.broker import NatsBroker

            return NatsBroker(
                settings.nats_urls,
                prefix=settings.js_stream_name,
                creds_file=settings.nats_creds_file,
                user=settings.nats_user,
                password=settings.nats_password,
                tls=settings.nats_tls,
                replicas=settings.js_replicas,
            )
        case "redis":
            from services.common.stream.redis.broker import RedisBroker

            return RedisBroker(
                settings.redis_url, prefix=settings.stream_name, tls=settings.redis_tls
            )
        case "memory":
            from services.common.stream.memory.broker import MemoryBroker

            return MemoryBroker()
