"""The parts that all connections share."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.auth import KeyRing, Places
from services.gateway.backfill import Backfill
from services.gateway.catalog import Catalog
from services.gateway.hub import Hub
from services.gateway.settings import GatewaySettings
from services.gateway.tail import Tails


@dataclass(frozen=True, slots=True)
class Core:
    settings: GatewaySettings
    hub: Hub
    tails: Tails
    catalog: Catalog
    backfill: Backfill
    keys: KeyRing
    places: Places
