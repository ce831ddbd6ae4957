"""Twenty verified subscribers at 200 ticks/s, and beside them one client that means harm."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from services.common.settings import child_environment
from services.common.testing.waiting import eventually
from services.gateway.testing import Market
from tools.bench.documents import markdown, table, where
from tools.bench.hostile.kinds import KINDS
from tools.bench.registry import Run, bench, proc_kib
from tools.bench.servers import child, gateway_process, publisher_on, trading
from tools.bench.websocket import Follower, command
from tools.embedded import NatsServer

_SUBSCRIBERS = 20
_TICKS_PER_S = 200
_KEY = "the-key-of-the-subscribers"
_OTHER_KEY = "the-key-of-the-other-one"
_LEVELS = 15_000
_PAST_TICKS = 12_000


class Subscriber(Follower):
    """Follows one stream, checks every link of its chain, and notes the longest silence."""

    # A tick's place in its chain, as it stands in every `incr`.
    pattern = re.compile(rb'"incr","tick":\{[^}]*?"seq":(\d+),"prev":(\d+)')
    kept = 2000

    def __init__(self) -> None:
        subscribe = command(type="subscribe", product="BTC-USD", snapshot=False)
        super().__init__(subscribe, f"X-API-Key: {_KEY}")
        self.seq: int | None = None
        self.breaks = 0
        self.worst_s = 0.0
        self.lost = False
        self._last = 0.0

    def forget(self) -> None:
        self.worst_s, self._last = 0.0, 0.0

    def silence(self) -> float:
        """The longest pause so far, the one that lasts included."""
        return max(self.worst_s, time.perf_counter() - self._last if self._last else 0.0)

    def found(self, match: re.Match[bytes], now: int) -> None:  # noqa: ARG002 - the base's
        seq, prev = int(match[1]), int(match[2])
        self.breaks += self.seq is not None and prev != self.seq
        self.seq = seq
        self.worst_s = self.silence()
        self._last = time.perf_counter()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True


def _forget_memory(pid: int) -> None:
    """The process's high-water mark begins anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def _attack(kind: str, port: int, key: str, seconds: float) -> None:
    if kind == "nobody":
        await asyncio.sleep(seconds)
        return
    program = (sys.executable, "-m", "tools.bench.hostile.kinds")
    arguments = (kind, str(port), key, str(seconds))
    async with child(*program, *arguments, env=child_environment({})) as attacker:
        await attacker.wait()


@bench("hostile", on_request=True)
async def hostile(run: Run) -> None:
    """The longest pause of 20 verified subscribers at 200 ticks/s beside each kind of attack.

    Gateway, attacker, and subscribers with the market are a process each; on NATS JetStream.
    """
    seconds = 1.0 if run.quick else 10.0 if run.full else 4.0
    found: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        nats = await enter(NatsServer())
        publisher = await enter(publisher_on(nats, shards=2))
        market = Market(publisher, padding=200)
        await market.ticks(_PAST_TICKS)
        book = Market(publisher, "ETH-USD", "book")
        rows = [[str(20_000 + number), "1.5"] for number in range(_LEVELS)]
        bids = [[str(20_000 - number), "1.5"] for number in range(_LEVELS)]
        await book.publish(book.reset({"bids": bids, "asks": rows}))
        keys = f"{_KEY},{_OTHER_KEY}"
        starting = gateway_process(
            nats.url, SHARD_COUNT="2", AUTH_API_KEYS=keys, WS_PING_INTERVAL_S="3600"
        )
        pid, port = await enter(starting)
        loop = asyncio.get_running_loop()
        subscribers = [
            (await loop.create_connection(Subscriber, "127.0.0.1", port))[1]
            for _ in range(_SUBSCRIBERS)
        ]
        await enter(trading(market, _TICKS_PER_S))
        await eventually(lambda: all(one.seq is not None for one in subscribers), "ticks", 90)
        # `HOSTILE=depths,gaps`: those only.
        chosen = os.environ.get("HOSTILE", "").split(",")
        for kind in ("nobody", *(one for one in KINDS if chosen == [""] or one in chosen)):
            for key in ("", _OTHER_KEY):
                one = await _measure(kind, key, seconds, pid, port, subscribers)
                print(one, file=sys.stderr, flush=True)
                found.append(one)
        for subscriber in subscribers:
            subscriber.transport.abort()
    run.results["kinds"] = found


async def _measure(
    kind: str, key: str, seconds: float, pid: int, port: int, subscribers: list[Subscriber]
) -> dict[str, Any]:
    _forget_memory(pid)
    breaks = sum(one.breaks for one in subscribers)
    for one in subscribers:
        one.forget()
    await _attack(kind, port, key, seconds)
    result = {
        "kind": kind,
        "keyed": bool(key),
        "pause_ms": 1000 * max(one.silence() for one in subscribers),
        "breaks": sum(one.breaks for one in subscribers) - breaks,
        "lost": sum(one.lost for one in subscribers),
        "rss_mib": proc_kib(f"{pid}/status", "VmHWM:") / 1024,
    }
    # What it left waiting is over before the next one is measured.
    await asyncio.sleep(1.0)
    return result


@table("hostile:kinds")
def kinds(parts: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for kind in ("nobody", *KINDS):
        mine = where(parts["kinds"], kind=kind)
        if not mine:
            continue
        row = ["nobody" if kind == "nobody" else KINDS[kind].title]
        for keyed in (False, True):
            these = where(mine, keyed=keyed)
            row += [f"{max(one[name] for one in these):.0f}" for name in ("pause_ms", "rss_mib")]
        row.append(str(sum(one["breaks"] + one["lost"] for one in mine)))
        rows.append(row)
    of_each = ("longest pause, ms", "most memory, MiB")
    titles = [f"{key}: {title}" for key in ("no key", "with a key") for title in of_each]
    return markdown(["beside them", *titles, "chains broken"], rows)
