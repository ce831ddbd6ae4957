"""Unit prices and measured sizes: everything that the arithmetic takes from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REGION: Final = "us-east-1"
# When these were the list prices. Nothing here asks AWS: check them before you rely on a total.
AS_OF: Final = "mid 2025"


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for each `unit`."""

    usd: float
    unit: str


PRICES: Final = {
    "EKS control plane": Price(0.10, "hour"),
    "c7g.xlarge (4 vCPU, 8 GiB), on demand": Price(0.145, "hour"),
    "m7g.large (2 vCPU, 8 GiB), on demand": Price(0.0816, "hour"),
    "m7g.2xlarge (8 vCPU, 32 GiB), on demand": Price(0.3264, "hour"),
    "EBS gp3": Price(0.08, "GB and month"),
    "NLB": Price(0.0225, "hour"),
    "NLB capacity unit": Price(0.006, "hour"),
    "NAT gateway": Price(0.045, "hour"),
    "NAT gateway, data": Price(0.045, "GB"),
    "between zones (out of one, into the other)": Price(0.02, "GB"),
    "DynamoDB write unit, on demand": Price(0.625, "million"),
    "S3 Standard": Price(0.023, "GB and month"),
    "S3 PUT, LIST": Price(0.005, "thousand"),
}
# To the internet: price of a GB up to so many GB a month.
EGRESS: Final = ((100.0, 0.0), (10_240.0, 0.09), (51_200.0, 0.085), (153_600.0, 0.07))
EGRESS_BEYOND: Final = 0.05

# A TLS listener's capacity unit: new connections a second, open ones, GB an hour.
NLCU_NEW, NLCU_OPEN, NLCU_GB = 50, 3_000, 1.0


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel's part of all ticks, and bytes as `make bench BENCH=sizes` found them.

    Attributes:
        share: of all ticks (as in the normalizer's benchmark).
        raw, tick: bytes of a record's payload in the raw and the tick log.
        archived: bytes of both in S3, compressed.
        units: DynamoDB write units of a row.
    """

    share: float
    raw: int
    tick: int
    archived: int
    units: int


# Trades and books of a recorded minute of BTC-USD and ETH-USD, tickers of the simulated market.
CHANNELS: Final = {
    "book": Channel(0.70, 596, 539, 124 + 117, 3),
    "ticker": Channel(0.18, 615, 582, 57 + 59, 1),
    "trades": Channel(0.12, 495, 354, 58 + 28, 2),
}
# Subject, headers and checksum of a record in a JetStream file.
JETSTREAM_BYTES: Final = 232
# A tick to a client: the message around it, the frame's header; then TLS and TCP, about a tenth.
FRAME_BYTES: Final = 26
# The same ticker as a compressed frame (permessage-deflate, GATEWAY_COMPRESSION).
DEFLATED_TICKER: Final = 332
TRANSPORT: Final = 1.1

# CPU seconds (docs/performance.md); what gateways need is in docs/capacity.md.
CPU_INGEST: Final = 24e-6
CPU_NORMALIZE: Final = 36e-6
CPU_ROW: Final = 1.7e-3
CPU_FOLD: Final = 30e-6
# Of a core, what is planned with: the rest is for bursts.
BUSY: Final = 0.6
