"""What a connection costs the server before anything is sent on it: CPU to open, memory to keep."""

from __future__ import annotations

import asyncio
import socket
from itertools import batched
from typing import Any

from services.gateway.testing.wire import TEXT
from tools.bench.documents import markdown, table, where
from tools.bench.fanout.servers import Running, running
from tools.bench.registry import Run, bench, proc_kib, process_cpu_s, spread
from tools.bench.websocket import frame, handshake

_TITLES = {
    "limit": "C: `accept`, SHA-1, `send`",
    "gateway": "gateway",
    "websockets": "`websockets`",
    "fastapi": "FastAPI, `@app.websocket`",
}
_AT_ONCE = 100
# What browsers send besides, roughly.
_BROWSERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0",
    "Origin: http://127.0.0.1:8080",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.9",
)


@bench("handshakes")
async def handshakes(run: Run) -> None:
    """CPU to accept a WebSocket, and to subscribe it; memory while it is idle.

    Connections are opened a hundred at a time and kept. The handshake is done when its answer came
    (the gateway's: and the welcome), the subscription when its snapshot came.
    """
    clients = 200 if run.quick else 5000 if run.full else 2000
    found: list[dict[str, Any]] = []
    for _ in range(run.rounds):
        for name in _TITLES:
            async with running(name, 1, WS_PING_INTERVAL_S="3600") as server:
                # What is made once, by the first.
                await _close(await _open(server, 20))
                found.append(await _measure(run, server, clients))
    run.results["idle"] = found


async def _measure(run: Run, server: Running, clients: int) -> dict[str, Any]:
    memory, cpu = _private_kib(server.pid), process_cpu_s(server.pid)
    kernel = _kernel_kib()
    open_ = await _open(server, clients)
    opened_s = process_cpu_s(server.pid) - cpu
    result: dict[str, Any] = {
        "server": server.name,
        "clients": clients,
        "handshake_us": 1e6 * opened_s / clients,
        "idle_kib": (_private_kib(server.pid) - memory) / clients,
        "kernel_kib": (_kernel_kib() - kernel) / clients,
    }
    run.sample(_TITLES[server.name], "handshake", clients, server_s=opened_s)
    if server.subscribe:
        cpu = process_cpu_s(server.pid)
        for sockets in batched(open_, _AT_ONCE):
            for sock in sockets:
                sock.sendall(frame(TEXT, server.subscribe.encode()))
            for sock in sockets:
                await _until(sock, server.ready.encode())
        subscribed_s = process_cpu_s(server.pid) - cpu
        result["subscribe_us"] = 1e6 * subscribed_s / clients
        result["subscribed_kib"] = (_private_kib(server.pid) - memory) / clients
        run.sample("gateway, subscribe", "subscription", clients, server_s=subscribed_s)
    await _close(open_)
    return result


async def _open(server: Running, clients: int) -> list[socket.socket]:
    found = [socket.socket() for _ in range(clients)]
    for group in batched(found, _AT_ONCE):
        for sock in group:
            sock.connect(("127.0.0.1", server.port))
            sock.setblocking(False)
            sock.sendall(handshake(*_BROWSERS))
        for sock in group:
            await _until(sock, b'"type":"welcome"' if server.subscribe else b"\r\n\r\n")
    return found


async def _until(sock: socket.socket, wanted: bytes) -> None:
    loop, seen = asyncio.get_running_loop(), b""
    async with asyncio.timeout(60):
        while wanted not in seen:
            data = await loop.sock_recv(sock, 65_536)
            if not data:
                raise RuntimeError(f"closed before {wanted!r}: {seen[:200]!r}")
            seen = seen[-100:] + data


async def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        # A reset: nothing of it lingers in the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    await asyncio.sleep(0.3)


def _private_kib(pid: int) -> float:
    return proc_kib(f"{pid}/smaps_rollup", "Private_")


def _kernel_kib() -> float:
    """The kernel's own objects (slabs) on this machine: both ends of a connection are in it."""
    return proc_kib("meminfo", "Slab:")


@table("handshakes:idle")
def idle(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    found = {name: where(parts["idle"], server=name) for name in _TITLES}
    keys = ("handshake_us", "idle_kib", "subscribe_us", "subscribed_kib")
    rows = [
        [_TITLES[name], *(_spread(mine, key) for key in keys)]
        for name, mine in found.items()
        if mine
    ]
    titles = ["", "handshake, us CPU", "idle, KiB", "subscribe, us CPU", "subscribed, KiB"]
    return markdown(titles, rows)


def _spread(samples: list[dict[str, Any]], key: str) -> str:
    values = [one[key] for one in samples if key in one]
    return spread(values).text(1) if values else ""
