"""The life of one upstream connection, as a table: a step that is not in it is a defect and raises.

`failed` means that the venue refused the whole subscription: it is tried again only after the
longest pause.
"""

from __future__ import annotations

from enum import Enum


class FeedState(Enum):
    STOPPED = "stopped"
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    ACTIVE = "active"
    RECONNECTING = "reconnecting"
    FAILED = "failed"


# Any state may also be followed by STOPPED.
STEPS = {
    FeedState.STOPPED: {FeedState.CONNECTING},
    FeedState.CONNECTING: {FeedState.SUBSCRIBING, FeedState.RECONNECTING},
    FeedState.SUBSCRIBING: {FeedState.ACTIVE, FeedState.RECONNECTING, FeedState.FAILED},
    FeedState.ACTIVE: {FeedState.RECONNECTING},
    FeedState.RECONNECTING: {FeedState.CONNECTING},
    FeedState.FAILED: {FeedState.CONNECTING},
}


def checked_step(before: FeedState, after: FeedState) -> FeedState:
    """`after`.

    Raises:
        ValueError: it cannot follow `before`.
    """
    if after is not FeedState.STOPPED and after not in STEPS[before]:
        raise ValueError(f"a feed that is {before.value} cannot become {after.value}")
    return after
