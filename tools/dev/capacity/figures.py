"""What is reckoned with: measured figures, limits of others, and what subscribers do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

# Written by `python -m tools.dev.capacity --results FILE --write`.
VALUES: Final = Path(__file__).with_name("figures.json")
_HELD: Final[dict[str, float]] = json.loads(VALUES.read_text())


def _figure(name: str, unit: str, source: str) -> float:
    value: float = field(default=_HELD[name], metadata={"unit": unit, "source": source})
    return value


_FANOUT: Final = "`make bench-fanout`"
_SIZES: Final = "`make bench BENCH=sizes`"
_TAIL: Final = "`make bench BENCH=tail`"
_BACKFILL: Final = "`make bench BENCH=backfill`"


@dataclass(frozen=True)
class Figures:
    """Measured on 2 shared cores of an AMD EPYC; each names its command. Change them at will."""

    delivery_us: float = _figure("delivery_us", "us CPU, a message of its own to a client", _FANOUT)
    delivery_joined_us: float = _figure(
        "delivery_joined_us", "us CPU, one of ten in a write", _FANOUT
    )
    tick_us: float = _figure(
        "tick_us", "us CPU, a tick taken, checked and framed", "`make bench-observability`"
    )
    merge_us: float = _figure(
        "merge_us", "us CPU, ten ticks merged for a client", "`make bench BENCH=latest`"
    )
    handshake_us: float = _figure("handshake_us", "us CPU, a connection opened", _FANOUT)
    subscribe_us: float = _figure("subscribe_us", "us CPU, a stream subscribed", _FANOUT)
    connection_kib: float = _figure("connection_kib", "KiB, a connection with one stream", _FANOUT)
    stream_kib: float = _figure(
        "stream_kib", "KiB, each stream more", "about, from the slots of `Subscription`"
    )
    process_mib: float = _figure(
        "process_mib", "MiB, a gateway with nobody connected", "`ps` on the demo's gateway"
    )
    tick_bytes: float = _figure("tick_bytes", "bytes, a tick in the log", _SIZES)
    message_bytes: float = _figure(
        "message_bytes", "bytes, a ticker message to a client, framed", _SIZES
    )
    header_bytes: float = _figure(
        "header_bytes", "bytes around a tick between NATS and a gateway", "subject, id, protocol"
    )
    nats_delivery_us: float = _figure(
        "nats_delivery_us", "us CPU of nats-server, a tick to a gateway", _TAIL
    )
    leaf_delivery_us: float = _figure(
        "leaf_delivery_us", "us CPU of a leaf node, a tick to a gateway", _TAIL
    )
    nats_store_us: float = _figure(
        "nats_store_us", "us CPU of nats-server, a tick published and stored", _TAIL
    )
    log_read_us: float = _figure(
        "log_read_us", "us CPU of nats-server, a tick read for a backfill", _BACKFILL
    )
    window_read_us: float = _figure(
        "window_read_us", "us CPU of the gateway, the same from its window", _BACKFILL
    )


@dataclass(frozen=True)
class Limits:
    """What others allow, and how full things may be.

    Attributes:
        core_share, network_share: to be used, at most.
        window_mib, window_stream_mib: `WINDOW_TOTAL_BYTES` and `WINDOW_BYTES`.
        node_gateways: on a node of 4 vCPU.
        nats_servers, nats_gbit: of the cluster, and the network of each.
        nlb_targets: of a Network Load Balancer with cross-zone balancing.
    """

    core_share: float = 0.6
    gateway_mib: float = 1024
    window_mib: float = 256
    window_stream_mib: float = 4
    node_gateways: int = 3
    zones: int = 3
    nats_servers: int = 3
    nats_gbit: float = 10
    network_share: float = 0.6
    nlb_targets: int = 500


@dataclass(frozen=True)
class Load:
    """What subscribers do, and what the market does.

    Attributes:
        messages_s: to each client, over all its streams.
        streams: that each client follows.
        merged: whether they take `latest`, each message standing for about ten ticks.
        ticks_s: of all channels and products.
        busiest_s: of the busiest stream.
    """

    messages_s: float = 10
    streams: int = 5
    merged: bool = False
    ticks_s: float = 5000
    busiest_s: float = 50
    shards: int = 8
