"""The parts that all connections share."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.admission.addresses import Door, Guessing, KeyGuesses, Proxies
from services.gateway.admission.auth import EVERYONE, Grant, KeyRing, Places, digest_of
from services.gateway.backfill import Backfill
from services.gateway.fanout.hub import Hub
from services.gateway.metrics import Metrics
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
