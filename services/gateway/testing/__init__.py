"""For tests: a market, a gateway on a free port, clients of it; sockets and links in memory."""

from services.common.testing.waiting import WAIT_S, eventually
from services.gateway.testing.serving import (
    EPOCH,
    Bench,
    Client,
    Market,
    Message,
    Rows,
    bench,
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
