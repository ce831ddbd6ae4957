"""`python -m tools.bench.fanout.websockets_server CREDITS TICKS`: `websockets.broadcast`."""

from __future__ import annotations

import asyncio
import sys
from itertools import count

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from services.common.runtime import tune_collector
from tools.bench.fanout.ticks import FIRST, message, on_credits


async def main(pipe: int, ticks: int) -> None:
    clients: set[ServerConnection] = set()
    seqs = count(FIRST)
    ended = asyncio.Event()

    async def serve_client(client: ServerConnection) -> None:
        clients.add(client)
        try:
            await client.wait_closed()
        finally:
            clients.discard(client)

    def flush() -> None:
        for _ in range(ticks):
            broadcast(clients, message(next(seqs)).decode())

    async with serve(serve_client, "127.0.0.1", 0, backlog=4096, compression=None) as server:
        on_credits(pipe, flush, ended.set)
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await ended.wait()


if __name__ == "__main__":
    tune_collector()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
