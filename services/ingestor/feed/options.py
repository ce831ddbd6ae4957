"""How a feed behaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """How a feed behaves; durations in seconds.

    Attributes:
        endpoints: WebSocket addresses, the preferred one first.
        channels: the venue's channel names to subscribe.
        suspect_s: heartbeat age at which streams are stale.
        dead_s: heartbeat age at which the connection is made anew.
        connect_timeout_s: how long an attempt may take.
        max_pause_s: the largest pause between attempts.
        breaker_failures: attempts in a row without data that open the circuit.
        breaker_recovery_s: how long it stays open before one attempt may probe.
        compression: whether permessage-deflate is offered.
    """

    endpoints: Sequence[str]
    channels: Sequence[str]
    suspect_s: float = 3.0
    dead_s: float = 10.0
    connect_timeout_s: float = 5.0
    max_pause_s: float = 10.0
    breaker_failures: int = 8
    breaker_recovery_s: float = 5.0
    compression: bool = True
