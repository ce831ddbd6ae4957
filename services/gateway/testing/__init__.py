"""For tests: a market, a gateway on a free port, clients of it; sockets and links in memory."""

from services.common.testing.waiting import WAIT_S, eventually
from services.gateway.testing.client import Client, Message
from services.gateway.testing.market import EPOCH, Market, under_load
from services.gateway.testing.serving import Bench, Rows, bench, small_settings

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
    "under_load",
]
