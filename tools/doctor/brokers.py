"""What the broker's own server says: can it carry these logs?"""

from __future__ import annotations

import asyncio
from typing import Any

import nats
import redis.asyncio
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from redis.exceptions import RedisError

from services.common.network.nats_credentials import BadCredentials, NatsCredentials
from services.common.settings import CommonSettings
from services.common.stream.redis.client import EVICTION_ACTION, eviction_of, tls_options
from tools.doctor import Finding

_TIMEOUT_S = 5.0
# A BTC-USD book snapshot is 1.1 MB; a busy day's is larger.
_PAYLOAD_BYTES = 4 * 1024 * 1024
_STORE_WARNING = 0.8


async def check_server(settings: CommonSettings) -> list[Finding]:
    """Limits and state of the configured broker's server; nothing for the memory broker."""
    if settings.broker_kind == "nats":
        return await _nats(settings)
    if settings.broker_kind == "redis":
        return await _redis(settings)
    return []


async def _nats(settings: CommonSettings) -> list[Finding]:
    name, creds = "JetStream", settings.nats_creds_file
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            client = await nats.connect(
                list(settings.nats_urls),
                user=settings.nats_user,
                password=settings.nats_password and settings.nats_password.get_secret_value(),
                tls=settings.nats_tls.context() if settings.nats_tls else None,
                allow_reconnect=False,
                connect_timeout=2,
                error_cb=_ignored,
                **(NatsCredentials.read(creds).options() if creds is not None else {}),
            )
    except (BadCredentials, NatsError, OSError, TimeoutError) as error:
        text = str(error) or "no answer"
        return [Finding(name, "error", text, "check NATS_URLS, and credentials or user")]
    try:
        account = await client.jetstream().account_info()
        payload = int(client.max_payload)
    except (JetStreamError, NatsError) as error:
        advice = "enable JetStream in the server (`jetstream {}`) and for this account"
        return [Finding(name, "error", str(error) or "not enabled", advice)]
    finally:
        await client.close()
    return [_payload(payload), _store(account.streams, account.storage, account.limits)]


def _payload(payload: int) -> Finding:
    text = f"{payload / 1e6:.1f} MB"
    if payload < _PAYLOAD_BYTES:
        advice = "set max_payload to 8388608: a book's snapshot does not fit"
        return Finding("NATS max_payload", "error", text, advice)
    return Finding("NATS max_payload", "ok", text)


def _store(streams: int, used: int, limits: Any) -> Finding:
    limit = int(getattr(limits, "max_storage", 0) or 0)
    text = f"{streams} streams, {used / 1e6:.0f} MB stored"
    if limit > 0:
        text += f" of {limit / 1e6:.0f} MB"
        if used > _STORE_WARNING * limit:
            advice = "raise the account's limit, or lower JS_RETENTION_MINUTES"
            return Finding("JetStream", "warning", text, advice)
    return Finding("JetStream", "ok", text)


async def _ignored(_error: Exception) -> None:
    """The client would print it; `connect` raises it as well."""


async def _redis(settings: CommonSettings) -> list[Finding]:
    client = redis.asyncio.Redis.from_url(
        settings.redis_url, socket_timeout=_TIMEOUT_S, **tls_options(settings.redis_tls)
    )
    try:
        info = await client.info()
    except (RedisError, OSError) as error:
        return [Finding("Redis", "error", str(error), "check REDIS_URL, user and password")]
    finally:
        await client.aclose()
    found = [Finding("Redis", "ok", f"version {info['redis_version']}")]
    if (eviction := eviction_of(info)) is not None:
        found.append(Finding("Redis memory", "error", eviction, EVICTION_ACTION))
    if not int(info.get("aof_enabled", 0)):
        advice = "set appendonly yes, or accept that a restart of the server loses the log's end"
        found.append(Finding("Redis persistence", "warning", "appendonly is off", advice))
    return found
