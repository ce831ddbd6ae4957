"""The parts that all connections share, and what one connection may do."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.admission.addresses import Door, Guessing, KeyGuesses, Proxies
from services.gateway.admission.auth import EVERYONE, Grant, KeyRing, Places, digest_of
from services.gateway.backfill import Backfill
from services.gateway.fanout.hub import Hub
from services.gateway.metrics import Metrics
from services.gateway.protocol import CONNECTION_QUOTA, MAX_MESSAGE_BYTES, Problem
from services.gateway.ratelimit import CommandRate
from services.gateway.settings import GatewaySettings
from services.gateway.streams.catalog import Catalog
from services.gateway.streams.record_reader import RecordReader
from services.gateway.streams.registry import StreamRegistry


@dataclass(frozen=True, slots=True)
class GatewayParts:
    settings: GatewaySettings
    metrics: Metrics
    records: RecordReader
    hub: Hub
    streams: StreamRegistry
    catalog: Catalog
    backfill: Backfill
    keys: KeyRing
    places: Places
    proxies: Proxies
    door: Door
    guesses: KeyGuesses

    def grant_of(self, key: str | None, address: str) -> Grant | None:
        """What a key that came from an address allows; None: there is none, or it is not known.

        Raises:
            Guessing: it was not looked at.
        """
        if self.keys.open or key is None:
            return EVERYONE if self.keys.open else None
        digest = digest_of(key)
        if (wait := self.guesses.wait(address, digest)) > 0:
            raise Guessing(wait)
        grant = self.keys.grant(key)
        self.guesses.judged(address, digest, right=grant is not None)
        return grant


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
