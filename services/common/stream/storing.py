"""What publishers count, and whether a broker stores what they were given. Pure.

A server may answer every question and store nothing: its disk or its memory is full, a stream
stopped at a write error, a replica lost its leader. So what is judged is what it was given: how
long the oldest record has been waited for, of those that nobody confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# Above what an election or a quick restart takes; below what subscribers may be shown as current.
NOT_STORING_S = 5.0


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Counters since the publisher was opened; `in_flight` and what follows are now.

    Attributes:
        sent: records taken.
        stored: of these, stored by this publisher.
        duplicates: of these, found stored already.
        refused: of these, refused for good by the server (`OnRefused`); also replaced ones.
        lost: of these, and of what was acknowledged of late, found missing beneath a newer record
            of their subject, where they can no longer be stored in order.
        retried: sent once more.
        in_flight: not known to be stored.
        bytes_in_flight: the same in bytes.
        stalled_s: how long the oldest of these has been waited for: since it was taken, or since
            the one before it was stored. 0 when there is none.
        trouble: what is in the way of storing, as the server or the connection said it.
    """

    sent: int
    stored: int
    duplicates: int
    retried: int
    in_flight: int
    bytes_in_flight: int
    stalled_s: float = 0.0
    trouble: str | None = None
    lost: int = 0
    refused: int = 0


class Storing(NamedTuple):
    """The publisher that has waited longest.

    Attributes:
        stalled_s: for how long its oldest record has been waited for; 0 when nobody waits.
        in_flight: how many records wait in it.
        trouble: what is in the way, as the server or the connection said it.
    """

    stalled_s: float = 0.0
    in_flight: int = 0
    trouble: str | None = None

    @property
    def problem(self) -> str | None:
        """Why this does not count as storing; None when it does."""
        if self.stalled_s < NOT_STORING_S:
            return None
        reason = self.trouble or "no answer"
        return f"nothing stored for {self.stalled_s:.0f} s, {self.in_flight} records wait: {reason}"


def storing(publishers: Iterable[PublisherStats]) -> Storing:
    """What is known of a broker from its open publishers."""
    return max(
        (Storing(stats.stalled_s, stats.in_flight, stats.trouble) for stats in publishers),
        key=lambda found: found.stalled_s,
        default=Storing(),
    )
