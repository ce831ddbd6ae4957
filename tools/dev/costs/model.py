"""The arithmetic: from a size to quantities, from quantities to dollars. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from tools.dev.capacity.figures import Figures, Limits, Load
from tools.dev.capacity.model import Fleet, Gateway
from tools.dev.costs.prices import (
    BUSY,
    CHANNELS,
    CPU_FOLD,
    CPU_INGEST,
    CPU_NORMALIZE,
    CPU_ROW,
    DEFLATED_TICKER,
    EGRESS,
    EGRESS_BEYOND,
    FRAME_BYTES,
    JETSTREAM_BYTES,
    NLCU_GB,
    NLCU_NEW,
    NLCU_OPEN,
    PRICES,
    TRANSPORT,
)

HOURS: Final = 730
SECONDS: Final = HOURS * 3600
GB: Final = 1e9
_ZONES = 3
_SHARDS = 8
_REPLICAS = 3
# Of what is sent to a random zone, so much leaves its own.
_ACROSS = (_ZONES - 1) / _ZONES
_NODE_VCPU = 3.5
_ARCHIVE_PERIOD_S = 60
_ARCHIVE_BYTES = 5_000_000


class Line(NamedTuple):
    """One line of the bill."""

    item: str
    quantity: str
    usd: float


@dataclass(frozen=True)
class Size:
    """What is asked of the platform, and the settings that cost.

    Attributes:
        name: of the column.
        products: followed, on all three channels.
        ticks_s: of all channels together, on average over the month.
        clients: connected all the time.
        messages_s: ticker messages a second to each client.
        row_period_s, checkpoint_period_s: SNAPSHOT_PERIOD_MS / 1000 and CHECKPOINT_PERIOD_S.
        retention_h: JS_RETENTION_MINUTES / 60.
        archive_months: how long a lifecycle rule leaves raw/ and ticks/.
        nats_node: instance of each of the three NATS servers.
        merged: whether clients take `latest`.
        compressed: whether clients and gateways agree on permessage-deflate.
    """

    name: str
    products: int
    ticks_s: float
    clients: int
    messages_s: float
    row_period_s: float
    checkpoint_period_s: float
    retention_h: float = 2.0
    archive_months: float = 1.0
    nats_node: str = "m7g.large (2 vCPU, 8 GiB), on demand"
    merged: bool = False
    compressed: bool = False

    # ------------------------------------------------------------- what flows

    @cached_property
    def raw_bytes(self) -> float:
        """A mean raw record's payload."""
        return sum(each.share * each.raw for each in CHANNELS.values())

    @cached_property
    def tick_bytes(self) -> float:
        """A mean tick's payload."""
        return sum(each.share * each.tick for each in CHANNELS.values())

    @cached_property
    def stored_bytes(self) -> float:
        """What one message of the venue takes in one replica of both logs."""
        return self.raw_bytes + self.tick_bytes + 2 * JETSTREAM_BYTES

    @cached_property
    def message_bytes(self) -> float:
        """A ticker message to a client, on the wire."""
        plain = CHANNELS["ticker"].tick + FRAME_BYTES
        return (DEFLATED_TICKER if self.compressed else plain) * TRANSPORT

    @cached_property
    def deliveries_s(self) -> float:
        return self.clients * self.messages_s

    @cached_property
    def egress_gb(self) -> float:
        """A month's."""
        return self.deliveries_s * self.message_bytes * SECONDS / GB

    @cached_property
    def rows_s(self) -> float:
        """Row writes a second: each stream as often as it changes, at most once a period."""
        return sum(self._writes(each.share) for each in CHANNELS.values())

    @cached_property
    def write_units_s(self) -> float:
        rows = sum(self._writes(each.share) * each.units for each in CHANNELS.values())
        # A checkpoint is named in its book's row.
        return rows + self.checkpoints_s * CHANNELS["book"].units

    @cached_property
    def checkpoints_s(self) -> float:
        return self.products / self.checkpoint_period_s

    def _writes(self, share: float) -> float:
        return self.products * min(self.ticks_s * share / self.products, 1 / self.row_period_s)

    @cached_property
    def puts_s(self) -> float:
        """Objects written a second: archive, its index, checkpoints."""
        kinds = len(CHANNELS)
        raw = self._batches(self.ticks_s * self.raw_bytes) * (kinds * _SHARDS + 2)
        ticks = _SHARDS * self._batches(self.ticks_s * self.tick_bytes / _SHARDS) * (kinds + 2)
        # Every fourth checkpoint or so the older ones are removed, which is free.
        return raw + ticks + self.checkpoints_s

    @staticmethod
    def _batches(bytes_s: float) -> float:
        """A log's batches a second: one a period, or more when they are full before."""
        return max(1 / _ARCHIVE_PERIOD_S, bytes_s / _ARCHIVE_BYTES)

    # ------------------------------------------------------------- what is needed for it

    @cached_property
    def gateways(self) -> int:
        """Pods of one core, as docs/capacity.md reckons: enough when one zone of three is away."""
        load = Load(messages_s=self.messages_s, merged=self.merged, ticks_s=self.ticks_s)
        return Fleet(self.clients, Gateway(Figures(), Limits(), load)).gateways

    @cached_property
    def normalizers(self) -> int:
        return max(2, math.ceil(self.ticks_s * CPU_NORMALIZE / BUSY))

    @cached_property
    def vcpus(self) -> float:
        """Of all services but NATS, and a node's worth for monitoring and controllers."""
        snapshotters = (self.rows_s * CPU_ROW + self.ticks_s * CPU_FOLD) / BUSY
        ingestors = max(1.0, self.ticks_s * CPU_INGEST / BUSY)
        return self.gateways + self.normalizers + snapshotters + ingestors + _NODE_VCPU

    @cached_property
    def nodes(self) -> int:
        return max(_ZONES, math.ceil(self.vcpus / _NODE_VCPU))

    @cached_property
    def log_gb(self) -> float:
        """One replica of both logs at the end of the retention."""
        return self.ticks_s * self.stored_bytes * self.retention_h * 3600 / GB

    @cached_property
    def zones_gb(self) -> float:
        """Between zones, a month: to the logs' leaders, to replicas, to readers."""
        written = self.ticks_s * self.stored_bytes * (_ACROSS + _REPLICAS - 1)
        raw, ticks = self.raw_bytes + JETSTREAM_BYTES, self.tick_bytes + JETSTREAM_BYTES
        read = self.ticks_s * (
            # Each normalizer and the snapshotter read all of the raw log, each gateway all ticks.
            raw * (self.normalizers + 1) + ticks * (self.gateways + 1)
        )
        return (written + read * _ACROSS) * SECONDS / GB

    @cached_property
    def nlcus(self) -> float:
        """An hour's, on average: whatever is scarcest. Each client reconnects once an hour."""
        return max(
            self.clients / 3600 / NLCU_NEW,
            self.clients / NLCU_OPEN,
            self.egress_gb / HOURS / NLCU_GB,
        )

    @cached_property
    def archive_gb(self) -> float:
        """Archive that is added each month."""
        each = sum(one.share * one.archived for one in CHANNELS.values())
        return self.ticks_s * each * SECONDS / GB


SIZES: Final = (
    Size("small", 10, 500, 1_000, 10, row_period_s=1, checkpoint_period_s=10),
    Size("medium", 100, 5_000, 20_000, 10, row_period_s=1, checkpoint_period_s=30),
    Size(
        "large",
        *(700, 20_000, 200_000, 10),
        row_period_s=2,
        checkpoint_period_s=60,
        nats_node="m7g.2xlarge (8 vCPU, 32 GiB), on demand",
    ),
)


def egress_usd(gigabytes: float) -> float:
    """By the steps of the price list."""
    usd, below = 0.0, 0.0
    for up_to, price in EGRESS:
        usd += max(0.0, min(gigabytes, up_to) - below) * price
        below = up_to
    return usd + max(0.0, gigabytes - below) * EGRESS_BEYOND


def bill(size: Size) -> Iterator[Line]:
    """A month, line by line."""

    def price(name: str) -> float:
        return PRICES[name].usd

    yield Line("EKS control plane", "1", price("EKS control plane") * HOURS)
    node = "c7g.xlarge (4 vCPU, 8 GiB), on demand"
    yield Line(
        "nodes of the services",
        f"{size.nodes} c7g.xlarge: {size.gateways} gateways, {size.normalizers} normalizers, "
        f"{size.vcpus:.0f} vCPU in all",
        size.nodes * price(node) * HOURS,
    )
    disk_gb = math.ceil(1.5 * size.log_gb)
    yield Line(
        "NATS",
        f"{_REPLICAS} {size.nats_node.partition(' ')[0]}, {disk_gb} GB of gp3 each",
        _REPLICAS * (price(size.nats_node) * HOURS + disk_gb * price("EBS gp3")),
    )
    yield Line(
        "load balancer (NLB, TLS)",
        f"{size.nlcus:,.1f} capacity units",
        (price("NLB") + size.nlcus * price("NLB capacity unit")) * HOURS,
    )
    yield Line("egress to clients", f"{size.egress_gb:,.0f} GB", egress_usd(size.egress_gb))
    between = "between zones (out of one, into the other)"
    yield Line("between zones", f"{size.zones_gb:,.0f} GB", size.zones_gb * price(between))
    fed_gb = size.ticks_s * size.raw_bytes * SECONDS / GB
    yield Line(
        "NAT gateways",
        f"3, {fed_gb:,.0f} GB of feed",
        3 * price("NAT gateway") * HOURS + fed_gb * price("NAT gateway, data"),
    )
    yield Line(
        "DynamoDB writes",
        f"{size.rows_s:,.0f} rows/s, {size.write_units_s:,.0f} units/s",
        size.write_units_s * SECONDS / 1e6 * price("DynamoDB write unit, on demand"),
    )
    yield Line(
        "S3 requests",
        f"{size.puts_s:,.1f} PUT/s",
        size.puts_s * SECONDS / 1e3 * price("S3 PUT, LIST"),
    )
    stored_gb = size.archive_gb * size.archive_months
    yield Line("S3 storage", f"{stored_gb:,.0f} GB", stored_gb * price("S3 Standard"))
