"""The tables of docs/performance.md about fan-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.bench.documents import markdown, table
from tools.bench.fanout.figures import (
    Sample,
    bounds,
    cpu_us,
    load_of,
    of_server,
    p50_ms,
    p99_ms,
    ratio,
    spread,
)
from tools.bench.fanout.servers import SERVERS

_TITLES = {
    "limit": "C, one `send()` for each client and flush: the limit",
    "gateway": "gateway, fed in its process",
    "gateway-batch": "the same, to clients that take arrays (`batch`)",
    "gateway-nats": "gateway as deployed, on NATS JetStream",
    "websockets": "`websockets.broadcast`",
    "fastapi": "FastAPI, `send_text` to one after the other",
    "fastapi-queues": "FastAPI, `send_text` from a queue and task for each client",
}


@table("fanout:load")
def load(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["load"]
    rows = []
    for server in _present(samples):
        row = [_TITLES[server]]
        for ticks in (1, 10):
            some = load_of(samples, ticks)
            mine, limit = of_server(some, server, cpu_us), of_server(some, "limit", cpu_us)
            row += [spread(mine).text(2), ratio(mine, limit).text()] if mine else ["", ""]
        rows.append(row)
    clients, size = samples[0]["clients"], of_server(samples, "limit", _frame_bytes)[0]
    about = (
        f"CPU seconds of the server for a million deliveries to {clients:,} clients, frames of "
        f"{size:.0f} bytes: median (min-max); x C: best of each (median of pairs)."
    )
    return [
        about,
        "",
        *markdown(["", "1 tick per flush", "x C", "10 ticks per flush", "x C"], rows),
    ]


@table("fanout:bounds")
def held(parts: dict[str, list[Sample]]) -> list[str]:
    rows = [
        [
            bound.what,
            f"at most {bound.most:.2f}",
            bound.found.text(),
            f"{bound.limit:.2f}",
            "holds" if bound.holds else "**does not hold**",
        ]
        for bound in bounds(parts["load"], parts["paced"])
    ]
    titles = ["the gateway's", "asked", "best of each (median of pairs)", "C itself", ""]
    return markdown(titles, rows)


@table("fanout:paced")
def paced(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["paced"]
    limit = of_server(samples, "limit", p99_ms)
    rows = [
        [
            _TITLES[server],
            spread(of_server(samples, server, p50_ms)).text(2),
            spread(of_server(samples, server, p99_ms)).text(2),
            ratio(of_server(samples, server, p99_ms), limit).text(),
            f"{100 * spread(of_server(samples, server, _share)).median:.0f} %",
        ]
        for server in _present(samples)
    ]
    about = (
        f"{samples[0]['per_s']} ticks/s to {samples[0]['clients']:,} clients, from asking for a "
        "tick to having read it, ms."
    )
    return [
        about,
        "",
        *markdown(["", "p50", "p99", "p99 x C", "CPU of one core"], rows),
    ]


@table("fanout:many")
def many(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["many"]
    rows = [
        [
            _TITLES[server],
            *(
                spread(of_server(samples, server, figure)).text(digits)
                for figure, digits in (
                    (_handshakes_per_s, 0),
                    (_handshake_us, 0),
                    (_subscribe_us, 0),
                    (_idle_kib, 1),
                    (_subscribed_kib, 1),
                    (_latest_to_median, 1),
                    (_slowest_to_median, 2),
                )
            ),
        ]
        for server in _present(samples)
    ]
    first, last = (stage["clients"] for stage in samples[0]["found"]["stages"])
    about = (
        f"From {first:,} to {last:,} connections, opened 64 at a time; then 1 tick per flush to "
        f"all {last:,}. Memory is resident memory (without the kernel's) for each of the first "
        f"{first:,} before it subscribes, and for each of the others once it has."
    )
    return [
        about,
        "",
        *markdown(
            [
                "",
                "handshakes/s",
                "CPU us a handshake",
                "CPU us a subscription",
                "KiB, connected",
                "KiB, subscribed",
                "latest delivery / median",
                "slowest client / median",
            ],
            rows,
        ),
    ]


def _present(samples: Sequence[Sample]) -> list[str]:
    return [server for server in SERVERS if any(one["server"] == server for one in samples)]


def _frame_bytes(sample: Sample) -> float:
    return float(sample["frame_bytes"])


def _share(sample: Sample) -> float:
    return float(sample["cpu_share"])


def _stage(sample: Sample) -> tuple[dict[str, Any], int]:
    """The last stage, and how many connections it added."""
    before, last = sample["found"]["stages"][-2:]
    return last, last["clients"] - before["clients"]


def _handshakes_per_s(sample: Sample) -> float:
    stage, added = _stage(sample)
    return float(added / stage["handshake_s"])


def _handshake_us(sample: Sample) -> float:
    stage, added = _stage(sample)
    return float(1e6 * stage["handshake_cpu_s"] / added)


def _subscribe_us(sample: Sample) -> float:
    stage, added = _stage(sample)
    return float(1e6 * stage["subscribe_cpu_s"] / added)


def _idle_kib(sample: Sample) -> float:
    """By the first stage: what later ones are given may have been another's before."""
    first = sample["found"]["stages"][0]
    return float((first["rss_kib"] - sample["found"]["rss_kib"]) / first["clients"])


def _subscribed_kib(sample: Sample) -> float:
    before, last = sample["found"]["stages"][-2:]
    added = last["clients"] - before["clients"]
    return float((last["subscribed_rss_kib"] - before["subscribed_rss_kib"]) / added)


def _latest_to_median(sample: Sample) -> float:
    delays = sample["found"]["delay_us"]
    return float(delays["max"] / delays["p50"])


def _slowest_to_median(sample: Sample) -> float:
    delays = sample["found"]["delay_us"]
    return float(delays["client_slowest"] / delays["client_median"])
