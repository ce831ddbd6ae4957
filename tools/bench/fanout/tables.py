"""The tables of docs/performance.md about fan-out."""

from __future__ import annotations

from collections.abc import Sequence

from tools.bench.documents import markdown, table
from tools.bench.fanout.figures import Sample, bounds, load_of, of_server, ratio
from tools.bench.fanout.servers import SERVERS
from tools.bench.figures import spread

_TITLES = {
    "limit": "C, one `send()` for each client and flush: the limit",
    "gateway": "gateway, fed in its process",
    "gateway-batch": "the same, to clients that take arrays (`batch`)",
    "gateway-nats": "gateway as deployed, on NATS JetStream",
    "websockets": "`websockets.broadcast`",
    "fastapi": "FastAPI, `send_text` to one after the other",
    "fastapi-queues": "FastAPI, `send_text` from a queue and task for each client",
}


# Of the table of many connections: title, figure, digits.
_MANY = (
    ("handshakes/s", "handshakes_per_s", 0),
    ("CPU us a handshake", "handshake_us", 0),
    ("CPU us a subscription", "subscribe_us", 0),
    ("KiB, connected", "idle_kib", 1),
    ("KiB, subscribed", "subscribed_kib", 1),
    ("latest delivery / median", "latest_to_median", 1),
    ("slowest client / median", "slowest_to_median", 2),
)


@table("fanout:load")
def load(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["load"]
    rows = []
    for server in _present(samples):
        row = [_TITLES[server]]
        for ticks in (1, 10):
            some = load_of(samples, ticks)
            mine, limit = (of_server(some, one, "cpu_us") for one in (server, "limit"))
            row += [spread(mine).text(2), ratio(mine, limit).text()] if mine else ["", ""]
        rows.append(row)
    clients, size = samples[0]["clients"], of_server(samples, "limit", "frame_bytes")[0]
    about = (
        f"CPU seconds of the server for a million deliveries to {clients:,} clients, frames of "
        f"{size:.0f} bytes: median (min-max); x C: best of each (median of pairs)."
    )
    titles = ["", "1 tick per flush", "x C", "10 ticks per flush", "x C"]
    return [about, "", *markdown(titles, rows)]


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
    limit = of_server(samples, "limit", "p99_ms")
    rows = [
        [
            _TITLES[server],
            *(
                spread(of_server(samples, server, figure)).text(2)
                for figure in ("p50_ms", "p99_ms")
            ),
            ratio(of_server(samples, server, "p99_ms"), limit).text(),
            f"{100 * spread(of_server(samples, server, 'cpu_share')).median:.0f} %",
        ]
        for server in _present(samples)
    ]
    about = (
        f"{samples[0]['per_s']} ticks/s to {samples[0]['clients']:,} clients, from asking for a "
        "tick to having read it, ms."
    )
    return [about, "", *markdown(["", "p50", "p99", "p99 x C", "CPU of one core"], rows)]


@table("fanout:many")
def many(parts: dict[str, list[Sample]]) -> list[str]:
    samples = parts["many"]
    rows = [
        [
            _TITLES[server],
            *(spread(of_server(samples, server, name)).text(digits) for _, name, digits in _MANY),
        ]
        for server in _present(samples)
    ]
    first, last = samples[0]["stages"]
    about = (
        f"From {first:,} to {last:,} connections, opened 64 at a time; then 1 tick per flush to "
        f"all {last:,}. Memory is resident memory (without the kernel's) for each of the first "
        f"{first:,} before it subscribes, and for each of the others once it has."
    )
    return [about, "", *markdown(["", *(title for title, _, _ in _MANY)], rows)]


def _present(samples: Sequence[Sample]) -> list[str]:
    return [server for server in SERVERS if any(one["server"] == server for one in samples)]
