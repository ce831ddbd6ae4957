"""For tests: a market, a gateway on a free port, clients of it; sockets and links in memory."""

from services.gateway.testing.serving import (
    EPOCH,
    WAIT_S,
    Bench,
    Client,
    Market,
    Message,
    Rows,
    bench,
    eventually,
    small_settings,
)

__all__ = [
    "EPOCH",
    "WAIT_S",
    "Bench",
    "Client",
    "Market",
    "Message",
    "Rows",
    "bench",
    "eventually",
    "small_settings",
]
