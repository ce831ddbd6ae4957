"""What a load needs and costs a month: the arithmetic of docs/operations/sizing.md.

    python -m tools.dev.sizing clients=20000 messages_s=2 ticks_s=800 delivery_us=5

Every figure and price of `sizing.yaml` may be given another value.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import yaml

_GIVEN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
FIGURES: dict[str, float] = _GIVEN["figures"]
PRICES: dict[str, float] = _GIVEN["prices"]
# To the internet: up to so many GB a month, US dollars for each.
EGRESS = ((100.0, 0.0), (10_240.0, 0.09), (51_200.0, 0.085), (153_600.0, 0.07), (math.inf, 0.05))
# Of all ticks, and DynamoDB write units of a row: book, ticker, trades.
CHANNELS = ((0.70, 3), (0.18, 1), (0.12, 2))
HOURS = 730
SECONDS = HOURS * 3600


def egress_usd(gigabytes: float) -> float:
    """By the steps of the price list."""
    usd, below = 0.0, 0.0
    for up_to, price in EGRESS:
        usd += max(0.0, min(gigabytes, up_to) - below) * price
        below = up_to
    return usd


def needs(f: dict[str, float]) -> dict[str, float]:
    """What a fleet for this load is, one zone being away."""
    left = f["core_share"] - f["ticks_s"] * f["tick_us"] / 1e6
    each_us = f["messages_s"] * (f["delivery_us"] + f["merged"] * f["merge_us"])
    by_cpu = max(0, int(left * 1e6 / each_us))
    memory_kib = (f["gateway_mib"] - f["process_mib"] - f["window_mib"]) * 1024
    by_memory = int(memory_kib / (f["connection_kib"] + (f["streams"] - 1) * f["stream_kib"]))
    holds, zones = min(by_cpu, by_memory), f["zones"]
    if not holds:
        sys.exit(
            "taking that many ticks leaves a gateway no core for clients: by groups of products"
        )
    needed = math.ceil(f["clients"] / holds)
    gateways = max(zones, math.ceil(needed * zones / (zones - 1)))
    sent = f["messages_s"] * (f["deflated_bytes"] if f["compressed"] else f["message_bytes"]) * 1.1
    tail_mbit = f["ticks_s"] * (f["tick_bytes"] + f["header_bytes"]) * 8 / 1e6
    back_us = f["handshake_us"] + f["streams"] * f["subscribe_us"]
    return {
        "connections by CPU": by_cpu,
        "connections by memory": by_memory,
        "connections of a gateway": holds,
        "gateways": gateways,
        "nodes of gateways": math.ceil(gateways / f["node_gateways"]),
        "Mbit/s from NATS to each gateway": tail_mbit,
        "cores of NATS for sending": gateways * f["ticks_s"] * f["nats_delivery_us"] / 1e6,
        "gateways that NATS can feed itself": int(
            f["nats_servers"] * f["nats_gbit"] * f["core_share"] * 1e3 / tail_mbit
        ),
        "NLBs": math.ceil(gateways / f["nlb_targets"]),
        "Gbit/s to clients": f["clients"] * sent * 8 / 1e9,
        "seconds that windows reach back": f["window_stream_mib"] * 1024**2
        / (f["tick_bytes"] + 250) / f["busiest_s"],
        "seconds of each other gateway's core when a zone is lost": f["clients"] // zones
        * back_us / 1e6 / (gateways * (zones - 1) / zones),
        "core-seconds of NATS for a gateway that starts without stores": f["ticks_s"] * 3600
        * f["log_read_us"] / 1e6,
        "GB to clients a month": f["clients"] * sent * SECONDS / 1e9,
    }  # fmt: skip


def month(f: dict[str, float]) -> dict[str, float]:
    """The bill, US dollars."""
    fleet, ticks = needs(f), f["ticks_s"]
    writes = [
        (f["products"] * min(ticks * share / f["products"], 1 / f["row_period_s"]), units)
        for share, units in CHANNELS
    ]
    rows, checkpoints = sum(count for count, _ in writes), f["products"] / f["checkpoint_period_s"]
    units = sum(count * each for count, each in writes) + 3 * checkpoints
    normalizers = max(2, math.ceil(ticks * f["normalize_us"] / 1e6 / f["core_share"]))
    folding = (rows * f["row_us"] + ticks * f["fold_us"]) / 1e6
    ingesting = max(1.0, ticks * f["ingest_us"] / 1e6 / f["core_share"])
    vcpus = fleet["gateways"] + normalizers + folding / f["core_share"] + ingesting
    nodes = max(f["zones"], math.ceil(vcpus / f["node_vcpu"] + 1))
    raw, tick = (f[name] + f["stored_around_bytes"] for name in ("raw_bytes", "tick_bytes"))
    disk_gb = math.ceil(1.5 * ticks * (raw + tick) * f["retention_h"] * 3600 / 1e9)
    sent_gb = fleet["GB to clients a month"]
    nlb_units = max(f["clients"] / 3600 / 50, f["clients"] / 3000, sent_gb / HOURS)
    read = raw * (normalizers + 1) + tick * (fleet["gateways"] + 1)
    across_gb = ticks * ((raw + tick) * (2 / 3 + 2) + read * 2 / 3) * SECONDS / 1e9
    fed_gb = ticks * f["raw_bytes"] * SECONDS / 1e9
    # Batches of a log: one a minute, or more when they are full (5 MB) before.
    raw_puts = max(1 / 60, ticks * f["raw_bytes"] / 5e6) * (3 * f["shards"] + 2)
    tick_puts = f["shards"] * max(1 / 60, ticks * f["tick_bytes"] / f["shards"] / 5e6) * 5
    puts = raw_puts + tick_puts + checkpoints
    bill = {
        "EKS control plane": f["eks_hour"] * HOURS,
        f"{nodes} nodes of the services": nodes * f["node_hour"] * HOURS,
        f"NATS, {disk_gb} GB each": 3 * (f["nats_hour"] * HOURS + disk_gb * f["disk_gb"]),
        "load balancer": (f["nlb_hour"] + nlb_units * f["nlb_unit_hour"]) * HOURS,
        "egress to clients": egress_usd(sent_gb),
        "between zones": across_gb * f["zones_gb"],
        "NAT gateways": 3 * f["nat_hour"] * HOURS + fed_gb * f["nat_gb"],
        "DynamoDB writes": units * SECONDS / 1e6 * f["write_units_million"],
        "S3 requests": puts * SECONDS / 1e3 * f["s3_puts_thousand"],
        "S3 storage": ticks * f["archived_bytes"] * SECONDS / 1e9 * f["archive_months"]
        * f["s3_gb"],
    }  # fmt: skip
    return {**bill, "a month": sum(bill.values())}


def main(arguments: list[str]) -> None:
    figures = {**FIGURES, **PRICES}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in figures:
            sys.exit(f"there is no figure {name!r}; there are {', '.join(figures)}")
        figures[name] = float(value)
    for title, table in (("what it needs", needs(figures)), ("USD a month", month(figures))):
        print(f"\n{title}")
        for name, count in table.items():
            print(f"  {name:<62}{count:14,.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
