"""The log between the services: `Broker` and its three implementations.

Only `__main__` modules (and tools) choose one, by `open_broker`; everything else is handed a
`Broker`. This package imports no driver itself, so that naming the interface costs nothing.
"""

from services.common.stream.broker import (
    Broker,
    Capabilities,
    GroupSubscription,
    LiveBatch,
    LiveSubscription,
    LogSpec,
    Message,
    Page,
    Position,
    Publisher,
    PublisherStats,
    Record,
)

__all__ = [
    "Broker",
    "Capabilities",
    "GroupSubscription",
    "LiveBatch",
    "LiveSubscription",
    "LogSpec",
    "Message",
    "Page",
    "Position",
    "Publisher",
    "PublisherStats",
    "Record",
]
