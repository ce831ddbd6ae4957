"""`python -m tools.bench.fanout.fastapi_server CREDITS TICKS`: FastAPI's own way to many clients.

As its documentation broadcasts: one `send_text` after the other, the cheapest of the plain ways
(a task or a queue for each client costs more).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from itertools import count

import structlog
import uvloop
from fastapi import FastAPI, WebSocket

from services.common.runtime import serve_http, tune_collector
from tools.bench.fanout.credits import on_credits
from tools.bench.fanout.ticks import FIRST, message


async def main(pipe: int, ticks: int) -> None:
    app = FastAPI()
    clients: set[WebSocket] = set()
    flushes: asyncio.Queue[bool] = asyncio.Queue()

    @app.websocket("/ws")
    async def serve_client(client: WebSocket) -> None:
        await client.accept()
        clients.add(client)
        try:
            while (await client.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            clients.discard(client)

    async with serve_http(app, "127.0.0.1", 0, ws_per_message_deflate=False) as port:
        on_credits(pipe, lambda: flushes.put_nowait(True), lambda: flushes.put_nowait(False))
        print(port, flush=True)
        seqs = count(FIRST)
        while await flushes.get():
            for _ in range(ticks):
                text = message(next(seqs)).decode()
                for client in list(clients):
                    await client.send_text(text)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # As the gateway has it.
    tune_collector()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
