"""The venues whose messages are understood, by the name that stands in the stream's key."""

from __future__ import annotations

from collections.abc import Mapping

from services.normalizer.venues.coinbase import CoinbaseMapper
from services.normalizer.venues.mapping import VenueMapper

VENUES: Mapping[str, VenueMapper] = {"coinbase": CoinbaseMapper()}
