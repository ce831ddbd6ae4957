"""Client of Market Data Fan-Out: verified, resuming subscriptions to chained market data."""

from market_data_fanout_client.book import Depth, OrderBook
from market_data_fanout_client.client import Client
from market_data_fanout_client.errors import ClientError, NotSubscribed, Refused, Unreachable
from market_data_fanout_client.freshness import Freshness
from market_data_fanout_client.messages import (
    AnyEvent,
    Backfill,
    Connected,
    Disconnected,
    Event,
    Fields,
    Late,
    Level,
    ModeChange,
    Reset,
    Resync,
    ServerError,
    Snapshot,
    Stats24h,
    Status,
    StreamError,
    Subscribed,
    Tick,
    Trade,
)
from market_data_fanout_client.sync import SyncClient

__all__ = [
    "AnyEvent",
    "Backfill",
    "Client",
    "ClientError",
    "Connected",
    "Depth",
    "Disconnected",
    "Event",
    "Fields",
    "Freshness",
    "Late",
    "Level",
    "ModeChange",
    "NotSubscribed",
    "OrderBook",
    "Refused",
    "Reset",
    "Resync",
    "ServerError",
    "Snapshot",
    "Stats24h",
    "Status",
    "StreamError",
    "Subscribed",
    "SyncClient",
    "Tick",
    "Trade",
    "Unreachable",
]
