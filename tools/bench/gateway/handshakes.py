"""What a connection costs the server before anything is sent on it: CPU to open, memory to keep."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.documents import markdown, table
from tools.bench.fanout.servers import Running, running
from tools.bench.registry import Run, bench

_SERVERS = ("limit", "gateway", "websockets", "fastapi")
_TITLES = {
    "limit": "C: `accept`, SHA-1, `send`",
    "gateway": "gateway",
    "websockets": "`websockets`",
    "fastapi": "FastAPI, `@app.websocket`",
}
_AT_ONCE = 100


@bench("handshakes")
async def handshakes(run: Run) -> None:
    """CPU to accept a WebSocket, and to subscribe it; memory while it is idle.

    Connections are opened a hundred at a time and kept. The handshake is done when its answer came
    (the gateway's: and the welcome), the subscription when its snapshot came.
    """
    clients = 200 if run.quick else 5000 if run.full else 2000
    found: list[dict[str, Any]] = []
    for _ in range(run.rounds):
        for name in _SERVERS:
            async with running(name, 1, WS_PING_INTERVAL_S="3600") as server:
                # What is made once, by the first.
                await _close(await _open(server, 20))
                found.append(await _measure(run, server, clients))
    run.results["idle"] = found


async def _measure(run: Run, server: Running, clients: int) -> dict[str, Any]:
    memory, cpu = _private_kib(server.pid), _cpu_us(server.pid)
    kernel = _kernel_kib()
    open_ = await _open(server, clients)
    opened_us = (_cpu_us(server.pid) - cpu) / clients
    idle_kib = (_private_kib(server.pid) - memory) / clients
    kernel_kib = (_kernel_kib() - kernel) / clients
    result: dict[str, Any] = {
        "server": server.name,
        "clients": clients,
        "handshake_us": opened_us,
        "idle_kib": idle_kib,
        "kernel_kib": kernel_kib,
    }
    sample = run.sample(_TITLES[server.name], unit="handshake")
    sample.count, sample.server_s = clients, opened_us * clients / 1e6
    if server.subscribe:
        cpu = _cpu_us(server.pid)
        for sockets in _groups(open_):
            for sock in sockets:
                sock.sendall(_masked(server.subscribe))
            for sock in sockets:
                await _until(sock, server.ready.encode())
        result["subscribe_us"] = (_cpu_us(server.pid) - cpu) / clients
        result["subscribed_kib"] = (_private_kib(server.pid) - memory) / clients
        sample = run.sample("gateway, subscribe", unit="subscription")
        sample.count, sample.server_s = clients, result["subscribe_us"] * clients / 1e6
    await _close(open_)
    return result


async def _open(server: Running, clients: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    while len(found) < clients:
        group = [socket.socket() for _ in range(min(_AT_ONCE, clients - len(found)))]
        for sock in group:
            sock.connect(("127.0.0.1", server.port))
            sock.setblocking(False)
            sock.sendall(_handshake())
        for sock in group:
            await _until(sock, b'"type":"welcome"' if server.subscribe else b"\r\n\r\n")
        found += group
    return found


def _groups(sockets: list[socket.socket]) -> list[list[socket.socket]]:
    return [sockets[at : at + _AT_ONCE] for at in range(0, len(sockets), _AT_ONCE)]


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


def _handshake() -> bytes:
    # The headers that browsers send, roughly.
    return (
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0\r\n"
        b"Origin: http://127.0.0.1:8080\r\nSec-WebSocket-Version: 13\r\n"
        b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
        b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n\r\n"
    )


def _masked(command: str) -> bytes:
    payload = command.encode()
    # A mask of zeros leaves the payload as it is.
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload


def _cpu_us(pid: int) -> float:
    """CPU that all threads of a process have used, to the nanosecond, as the scheduler counts."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in tasks) / 1e3


def _private_kib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("Private_"))


def _kernel_kib() -> float:
    """The kernel's own objects (slabs) on this machine: both ends of a connection are in it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return float(line.split()[1])
    return 0.0


@table("handshakes:idle")
def idle(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for server in _SERVERS:
        mine = [one for one in parts["idle"] if one["server"] == server]
        if mine:
            keys = ("handshake_us", "idle_kib", "subscribe_us", "subscribed_kib")
            rows.append([_TITLES[server], *(_spread(mine, key) for key in keys)])
    titles = ["", "handshake, us CPU", "idle, KiB", "subscribe, us CPU", "subscribed, KiB"]
    return markdown(titles, rows)


def _spread(samples: list[dict[str, Any]], key: str) -> str:
    values = [one[key] for one in samples if key in one]
    if not values:
        return ""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"
