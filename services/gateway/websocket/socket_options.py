"""Options of the listening socket; on Linux its connections have them too. And whose they are."""

from __future__ import annotations

import asyncio
import socket

# Data the kernel holds unsent for one client; by default it would take megabytes for a stuck one.
SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 16 * 1024),)
# For a listener that other processes have on the same port too.
SHARED_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end; empty when it is not known."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""
