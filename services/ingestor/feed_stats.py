"""What a feed shows of itself to metrics, `/feeds` and the log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedStats:
    """A feed at one moment; counters are since the process began.

    Attributes:
        venue: name of the venue.
        name: name of the feed, `coinbase-0`.
        connected: whether data flows.
        messages: frames received.
        ignored: frames of an unknown type or product.
        queued: messages waiting for a resync.
        reconnects: connections lost.
        last_message_age_s: None before the first message.
    """

    venue: str
    name: str
    connected: bool
    messages: int
    ignored: int
    queued: int
    reconnects: int
    last_message_age_s: float | None
