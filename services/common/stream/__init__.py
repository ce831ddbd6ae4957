"""The log between the services: `Broker` and its three implementations.

Only `__main__` modules (and tools) choose one, by `open_broker`; everything else is handed a
`Broker`. This package imports no driver itself, so that naming the interface costs nothing.

    broker.py       the contract, clauses B1 to B10; begin here
    factory.py      `open_broker`; specs.py: which logs there are
    memory*.py      one process: the log (pure) and the broker around it
    nats*.py        JetStream: connection, streams, publisher, group, live
    redis*.py       Redis Streams: client, keys and entries, publisher, tail (live), group
    worker.py       what publishers and subscriptions share: one task, one bell
    dead_letters.py what nobody can use, on its way to `market.invalid` (invalid_log.py)

The same suite runs on all three: `services/common/testing/conformance/`.
"""

from services.common.stream.broker import (
    Broker,
    Capabilities,
    GroupSubscription,
    LiveBatch,
    LiveSubscription,
    LogSpec,
    Message,
    OnRefused,
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
    "OnRefused",
    "Page",
    "Position",
    "Publisher",
    "PublisherStats",
    "Record",
]
