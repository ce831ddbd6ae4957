"""The figures that are in a results file of `make bench`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

_DEPLOYED = "gateway-nats"
_GATEWAY = "gateway"


def measured(found: Mapping[str, Any]) -> dict[str, float]:
    """Those of `Figures` that the file has; the others were not measured in that run."""
    fanout = found["benches"].get("fanout", {}).get("results", {})
    values: dict[str, float] = {}
    for name, ticks in (("delivery_us", 1), ("delivery_joined_us", 10)):
        some = [
            one["cpu_us"]
            for one in fanout.get("load", ())
            if (one["server"], one["ticks"]) == (_DEPLOYED, ticks)
        ]
        if some:
            values[name] = median(some)
    many = [_last_two(one) for one in fanout.get("many", ()) if one["server"] == _GATEWAY]
    if many:
        values |= {
            "handshake_us": median(
                _each_us(before, last, "handshake_cpu_s") for before, last in many
            ),
            "subscribe_us": median(
                _each_us(before, last, "subscribe_cpu_s") for before, last in many
            ),
            "connection_kib": median(_each_kib(before, last) for before, last in many),
        }
    return values | _of_cases(found)


def _last_two(sample: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The stages before and after the connections that are counted."""
    before, last = sample["found"]["stages"][-2:]
    return before, last


def _each_us(before: Mapping[str, Any], last: Mapping[str, Any], what: str) -> float:
    return float(1e6 * last[what] / (last["clients"] - before["clients"]))


def _each_kib(before: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    added = last["subscribed_rss_kib"] - before["subscribed_rss_kib"]
    return float(added / (last["clients"] - before["clients"]))


def _of_cases(found: Mapping[str, Any]) -> dict[str, float]:
    cases = {(one["bench"], one["case"]): one for one in found["cases"]}
    values: dict[str, float] = {}
    for name, bench, case, whose in (
        ("nats_store_us", "tail", "nobody follows", "server_us"),
        ("log_read_us", "backfill", "log: bare read by the broker's client", "server_us"),
        ("window_read_us", "backfill", "window: through the gateway", "server_us"),
        ("merge_us", "latest", "10 ticks merged into a client's message", "client_us"),
    ):
        held = cases.get((bench, case))
        # A short run may find less than nothing between two steps of the server's clock.
        if held is not None and held[whose] is not None and held[whose][0] > 0:
            values[name] = held[whose][0]
    for followed in found["benches"].get("tail", {}).get("results", {}).get("deliveries", ()):
        if followed["us"] > 0:
            values[followed["figure"]] = followed["us"]
    return values
