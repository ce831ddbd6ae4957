"""The arithmetic: from figures to connections, from connections to everything else. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tools.dev.capacity.figures import Figures, Limits, Load

_US = 1e6


@dataclass(frozen=True)
class Gateway:
    """One process: one core, and what fits into its memory."""

    figures: Figures
    limits: Limits
    load: Load

    @property
    def intake_share(self) -> float:
        """Of its core, for taking every tick of every shard."""
        return self.load.ticks_s * self.figures.tick_us / _US

    @property
    def by_cpu(self) -> int:
        """Connections, when each message is written by itself."""
        left = self.limits.core_share - self.intake_share
        merge = self.figures.merge_us if self.load.merged else 0.0
        each = self.load.messages_s * (self.figures.delivery_us + merge)
        return max(0, int(left * _US / each))

    @property
    def by_memory(self) -> int:
        figures, limits = self.figures, self.limits
        left = limits.gateway_mib - figures.process_mib - limits.window_mib
        each = figures.connection_kib + (self.load.streams - 1) * figures.stream_kib
        return int(left * 1024 / each)

    @property
    def connections(self) -> int:
        return min(self.by_cpu, self.by_memory)

    @property
    def egress_mbit(self) -> float:
        """To its clients; a tenth for TLS and TCP."""
        each = self.load.messages_s * self.figures.message_bytes * 1.1
        return self.connections * each * 8 / 1e6

    @property
    def intake_mbit(self) -> float:
        """From NATS."""
        return self.load.ticks_s * (self.figures.tick_bytes + self.figures.header_bytes) * 8 / 1e6

    @property
    def window_s(self) -> float:
        """How far back the busiest stream is in memory."""
        records = self.limits.window_stream_mib * 1024 * 1024 / (self.figures.tick_bytes + 250)
        return records / self.load.busiest_s


@dataclass(frozen=True)
class Fleet:
    """As many gateways as `clients` need, with a zone away."""

    clients: int
    gateway: Gateway

    @cached_property
    def gateways(self) -> int:
        zones = self.gateway.limits.zones
        needed = math.ceil(self.clients / self.gateway.connections)
        return max(zones, math.ceil(needed * zones / (zones - 1)))

    @property
    def nodes(self) -> int:
        return math.ceil(self.gateways / self.gateway.limits.node_gateways)

    @property
    def egress_gbit(self) -> float:
        each = self.gateway.load.messages_s * self.gateway.figures.message_bytes * 1.1
        return self.clients * each * 8 / 1e9

    @property
    def balancers(self) -> int:
        """NLBs with cross-zone balancing."""
        return math.ceil(self.gateways / self.gateway.limits.nlb_targets)

    # ------------------------------------------------------------- NATS

    def tail_gbit(self, readers: int) -> float:
        """What the cluster sends to `readers` that follow every shard."""
        return readers * self.gateway.intake_mbit / 1e3

    def tail_cores(self, readers: int) -> float:
        load, figures = self.gateway.load, self.gateway.figures
        return readers * load.ticks_s * figures.nats_delivery_us / _US

    @property
    def most_readers(self) -> int:
        """That the cluster's network carries."""
        limits = self.gateway.limits
        gbit = limits.nats_servers * limits.nats_gbit * limits.network_share
        return int(gbit * 1e3 / self.gateway.intake_mbit)

    @property
    def leaves(self) -> int:
        """Leaf nodes, one a node of gateways, once the cluster cannot feed each gateway."""
        return 0 if self.gateways <= self.most_readers else self.nodes

    @property
    def relays(self) -> int:
        """Leaf nodes between the cluster and those, once it cannot feed these either."""
        if self.leaves <= self.most_readers:
            return 0
        gbit = self.gateway.limits.nats_gbit * self.gateway.limits.network_share
        return max(self.gateway.limits.zones, math.ceil(self.tail_gbit(self.leaves) / gbit))

    @property
    def readers(self) -> int:
        """Of the cluster itself."""
        return self.relays or self.leaves or self.gateways

    @property
    def requests_s(self) -> float:
        """JetStream requests of gateways at rest: a ping each 2 s, a look at each shard each 10."""
        return self.gateways * (1 / 2 + self.gateway.load.shards / 10)

    @property
    def start_core_s(self) -> float:
        """CPU of NATS for one gateway that starts without the stores: an hour's log, read whole."""
        load, figures = self.gateway.load, self.gateway.figures
        return load.ticks_s * 3600 * figures.log_read_us / _US

    # ------------------------------------------------------------- coming back

    @property
    def returning(self) -> int:
        """Clients of a lost zone."""
        return self.clients // self.gateway.limits.zones

    @property
    def return_s(self) -> float:
        """Of each remaining gateway's core, until all of them are connected and subscribed."""
        figures, zones = self.gateway.figures, self.gateway.limits.zones
        each = figures.handshake_us + self.gateway.load.streams * figures.subscribe_us
        return self.returning * each / _US / (self.gateways * (zones - 1) / zones)

    def log_core_s(self, share: float, away_s: float) -> float:
        """CPU of NATS for `share` of the clients that were away longer than a window reaches."""
        load, figures = self.gateway.load, self.gateway.figures
        return self.clients * share * load.messages_s * away_s * figures.log_read_us / _US
