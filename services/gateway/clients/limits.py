"""What one connection may do, by the settings and by its key."""

from __future__ import annotations

from services.gateway.admission.auth import Grant
from services.gateway.protocol import CONNECTION_QUOTA, MAX_MESSAGE_BYTES, Problem
from services.gateway.ratelimit import CommandRate
from services.gateway.settings import GatewaySettings


def max_subscriptions(settings: GatewaySettings, grant: Grant | None) -> int:
    most = settings.ws_max_subscriptions
    return most if grant is None or grant.subscriptions is None else min(most, grant.subscriptions)


def commands_per_s(settings: GatewaySettings, grant: Grant | None) -> float:
    most = settings.ws_max_msgs_per_sec
    return most if grant is None or grant.commands is None else min(most, grant.commands)


def command_rate(settings: GatewaySettings, grant: Grant | None, now: float) -> CommandRate:
    rate, burst = commands_per_s(settings, grant), float(settings.ws_burst)
    if grant is not None and grant.commands is not None:
        burst = max(1.0, min(burst, 4 * rate))
    return CommandRate(rate, burst, now)


def limits_message(settings: GatewaySettings, grant: Grant | None) -> dict[str, float]:
    """`limits` of `welcome` and `auth`."""
    return {
        "max_message_bytes": MAX_MESSAGE_BYTES,
        "max_subscriptions": max_subscriptions(settings, grant),
        "commands_per_second": commands_per_s(settings, grant),
        "command_burst": settings.ws_burst,
        "queue_bytes": settings.ws_queue_bytes,
        "backfill_minutes": settings.backfill_max_minutes,
        "product_messages_per_second": settings.product_max_msgs_per_sec,
    }


def connections_taken(grant: Grant) -> Problem:
    """What is said when a key has no connection left."""
    message = f"{grant.connections} connections of this key are open, it may have no more"
    return Problem(CONNECTION_QUOTA, message, retry_after_ms=1000)
