"""The life of one upstream connection, as a table.

The feed's task feeds events; an event that fits nowhere is a defect and raises. `failed` means that
the venue refused the whole subscription: it is tried again only after the longest pause.
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


class FeedEvent(Enum):
    STARTED = "started"
    CONNECTED = "connected"
    FLOWING = "flowing"
    LOST = "lost"
    RETRIED = "retried"
    REFUSED = "refused"
    ENDED = "ended"


TRANSITIONS: dict[tuple[FeedState, FeedEvent], FeedState] = {
    (FeedState.STOPPED, FeedEvent.STARTED): FeedState.CONNECTING,
    (FeedState.CONNECTING, FeedEvent.CONNECTED): FeedState.SUBSCRIBING,
    (FeedState.CONNECTING, FeedEvent.LOST): FeedState.RECONNECTING,
    (FeedState.SUBSCRIBING, FeedEvent.FLOWING): FeedState.ACTIVE,
    (FeedState.SUBSCRIBING, FeedEvent.LOST): FeedState.RECONNECTING,
    (FeedState.SUBSCRIBING, FeedEvent.REFUSED): FeedState.FAILED,
    (FeedState.ACTIVE, FeedEvent.LOST): FeedState.RECONNECTING,
    (FeedState.RECONNECTING, FeedEvent.RETRIED): FeedState.CONNECTING,
    (FeedState.FAILED, FeedEvent.STARTED): FeedState.CONNECTING,
} | {(state, FeedEvent.ENDED): FeedState.STOPPED for state in FeedState}


def next_state(state: FeedState, event: FeedEvent) -> FeedState:
    """Where `event` leads from `state`.

    Raises:
        ValueError: it fits nowhere.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a feed that is {state.value} cannot have {event.value}") from None
