"""The log between the services: `Broker` and its three implementations.

Only `__main__` modules (and tools) choose one, by `open_broker`; everything else is handed a
`Broker`. This package imports no driver itself, so that naming the interface costs nothing.

    broker.py             the contract, clauses B1 to B10; begin here
    records.py            what is published (and can be at all), stored and read; how a log is kept;
                          what publishers count, and whether a broker stores what it is given
    factory.py            `open_broker`; specs.py: which logs there are

What the backends share:

    broker_base.py        owner of what was opened on a broker; what callers of a publisher meet
    publish_window.py     what a publisher holds
    unsynced_records.py   what was acknowledged of late, should the log lose its end
    holes.py, proof.py    whether a record would stand above what others lost there
    worker.py             parent of one background task; bell, backoff, waiting with a limit

What uses a broker:

    dead_letters.py       a queue of parked messages, and writing them on the one subject
    retention.py          tells when a log is cut before its time

A backend is a package. In each of them, in this order of reading:

    broker.py             the `Broker`
    client.py             its connection, or what stands for the server
    records.py            how records look there: ids, cursors, delivered messages
    publisher.py, group.py, live.py

    memory/   also log.py (the storage, pure)
    redis/    also logs.py (epochs, trimming), tail.py (what a group and a live subscription
              read), store_script.py, packing.py
    nats/     also link.py and connection.py (above client.py), wire.py (the protocol), streams.py
              (logs), places.py (where groups stand), loss_check.py (of live), and publishing/:
              session.py, lanes.py, messages.py, and how it is looked up what is stored:
              reconcile.py

The same suite runs on all three: `services/common/testing/conformance/`.
"""

from services.common.stream.broker import (
    Broker,
    GroupSubscription,
    LiveSubscription,
    OnRefused,
    Publisher,
)
from services.common.stream.records import (
    LiveBatch,
    LogSpec,
    Message,
    Page,
    Position,
    PublisherStats,
    Record,
)

__all__ = [
    "Broker",
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
