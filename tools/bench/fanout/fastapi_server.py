"""`python -m tools.bench.fanout.fastapi_server CREDITS TICKS MANNER`: FastAPI's own way.

MANNER `turns`: as its documentation broadcasts, one `send_text` after the other; the cheapest way,
but one slow client holds up all others. `queues`: each client has a queue and a task that sends
from it, so that none waits for another.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from itertools import count

import structlog
import uvloop
from fastapi import FastAPI, WebSocket

from services.common.runtime import serve_http, tune_collector
from tools.bench.fanout.ticks import FIRST, message, on_credits

Send = Callable[[str], Awaitable[None]]


async def main(pipe: int, ticks: int, manner: str) -> None:
    app = FastAPI()
    sends: dict[WebSocket, Send] = {}
    flushes: asyncio.Queue[bool] = asyncio.Queue()

    @app.websocket("/ws")
    async def serve_client(client: WebSocket) -> None:
        await client.accept()
        async with asyncio.TaskGroup() as group:
            sending: asyncio.Task[None] | None = None
            sends[client] = client.send_text
            if manner == "queues":
                queue: asyncio.Queue[str] = asyncio.Queue()
                sending = group.create_task(_send_from(queue, client))
                sends[client] = queue.put
            while (await client.receive())["type"] != "websocket.disconnect":
                pass
            del sends[client]
            if sending is not None:
                sending.cancel()

    async with serve_http(app, "127.0.0.1", 0, ws_per_message_deflate=False) as port:
        on_credits(pipe, lambda: flushes.put_nowait(True), lambda: flushes.put_nowait(False))
        print(port, flush=True)
        seqs = count(FIRST)
        while await flushes.get():
            for _ in range(ticks):
                text = message(next(seqs)).decode()
                for send in list(sends.values()):
                    await send(text)


async def _send_from(queue: asyncio.Queue[str], client: WebSocket) -> None:
    while True:
        await client.send_text(await queue.get())


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tune_collector()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
