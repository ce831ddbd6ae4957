"""A subscription's states, and what each event does in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.common.stream import Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.live_streams import LiveStream, Subscriber, SubscriptionListener
from services.gateway.fanout.outbox import Outbox, encoding_of
from services.gateway.fanout.subscription import (
    BEGINNING,
    Catching,
    State,
    Subscription,
    Terms,
    View,
    WrongState,
)
from services.gateway.metrics import Metrics
from services.gateway.testing import EPOCH, Market

_HELD = Position(EPOCH, 107)
_EVENTS: dict[str, Callable[[Subscription], object]] = {
    "go_live": lambda one: one.go_live(),
    "merge": lambda one: one.merge(_HELD, None),
    "fall_behind": lambda one: one.fall_behind(_HELD, 0.0),
    "catch_up": lambda one: one.catch_up(Catching("backfill", _HELD, 107)),
    "rest": lambda one: one.rest(),
    "end": lambda one: one.end(),
    "configure": lambda one: one.configure(Terms("latest")),
}
_TO: dict[State, dict[str, State]] = {
    State.IDLE: {
        "go_live": State.LIVE,
        "merge": State.MERGED,
        "catch_up": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
        "configure": State.IDLE,
    },
    State.LIVE: {
        "merge": State.MERGED,
        "fall_behind": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
    },
    State.MERGED: {
        "go_live": State.LIVE,
        "fall_behind": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
    },
    State.CATCHING_UP: {
        "go_live": State.LIVE,
        "merge": State.MERGED,
        "catch_up": State.CATCHING_UP,
        "rest": State.IDLE,
        "end": State.ENDED,
        "configure": State.CATCHING_UP,
    },
    State.ENDED: {"end": State.ENDED, "configure": State.ENDED},
}
_WAY: dict[State, list[str]] = {
    State.IDLE: [],
    State.LIVE: ["go_live"],
    State.MERGED: ["merge"],
    State.CATCHING_UP: ["catch_up"],
    State.ENDED: ["end"],
}

_METRICS = Metrics()


class _Client(Subscriber, SubscriptionListener):
    """The states change nothing about it."""

    writable = True

    def __init__(self) -> None:
        super().__init__(Outbox(1), encoding_of(arrays=False, deflated=False), -1)
        self.subscriptions = self

    def unsent(self, frames: bytes, sent: int) -> None: ...

    def flush(self) -> None: ...

    def fell_behind(self, subscription: Subscription, records: int) -> None: ...

    def rebased(self, subscription: Subscription) -> None: ...

    def over_quota(self, subscription: Subscription) -> None: ...

    def within_quota(self, subscription: Subscription) -> None: ...

    def failed(self) -> None: ...


def _live_stream() -> LiveStream:
    key = Market(None).key
    return LiveStream(key, _METRICS.of_stream(key))


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(_Client(), _live_stream())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", _EVENTS)
def test_what_each_event_does_in_each_state(
    subscription: Subscription, state: State, event: str
) -> None:
    for step in _WAY[state]:
        _EVENTS[step](subscription)
    assert subscription.state is state
    version = subscription.version
    to = _TO[state].get(event)
    if to is None:
        with pytest.raises(WrongState, match=f"^{event} while {state.name}$"):
            _EVENTS[event](subscription)
        assert (subscription.state, subscription.version) == (state, version)
        return
    _EVENTS[event](subscription)
    assert subscription.state is to
    unchanged = event == "configure" or (to is state and event in ("rest", "end"))
    assert (subscription.version == version) is unchanged
    assert (subscription.conflation is not None) == (to is State.MERGED)
    assert (subscription.catching is not None) == (to is State.CATCHING_UP)
    assert subscription.live == (to in (State.LIVE, State.MERGED))


def test_who_is_merged_falls_behind_from_what_it_was_sent_and_not_from_what_it_is_owed(
    subscription: Subscription,
) -> None:
    market = Market(None)
    entries = [StreamRecord(market.tick().payload) for _ in range(4)]
    subscription.merge(entries[0].position, None)
    assert subscription.conflation is not None
    for entry in entries[1:]:
        subscription.conflation.add(entry)
    catching = subscription.fall_behind(entries[-1].position, 5.0)
    assert (catching.position, catching.seq) == (entries[0].position, entries[0].position.seq)
    subscription.rest()
    subscription.merge(None, None)
    catching = subscription.fall_behind(entries[-1].position, 5.0)
    assert (catching.position, catching.seq) == (BEGINNING, None)


def test_how_a_stream_is_sent_is_what_was_asked_for_or_all_of_it(
    subscription: Subscription,
) -> None:
    assert subscription.terms == Terms("full", None, View(0, False), "snapshot")
    assert subscription.quota is None
    subscription.configure(Terms("latest", 5.0))
    assert subscription.terms == Terms("latest", 5.0)
    live_stream = _live_stream()
    own = Subscription(subscription.client, live_stream, Terms("latest"))
    assert own.terms == Terms("latest")
    assert own.client is subscription.client
    assert own.outbox is subscription.client.outbox
    assert own.live_stream is live_stream


def test_what_is_merged_obeys_the_rate_and_begins_behind_what_is_held(
    subscription: Subscription,
) -> None:
    subscription.merge(_HELD, 2.0)
    conflation = subscription.conflation
    assert conflation is not None
    assert (conflation.held, conflation.due) == (_HELD, 0.5)


def test_each_change_of_state_is_another_version(subscription: Subscription) -> None:
    seen = {subscription.version}
    for event in ("go_live", "fall_behind", "catch_up", "rest", "merge", "end"):
        _EVENTS[event](subscription)
        seen.add(subscription.version)
    assert len(seen) == 7
    assert max(seen) - min(seen) == 6


def test_who_falls_behind_begins_where_it_was_left_at_that_time(
    subscription: Subscription,
) -> None:
    subscription.go_live()
    catching = subscription.fall_behind(_HELD, 5.0)
    assert subscription.catching is catching
    assert (catching.reason, catching.position, catching.seq) == ("slow", _HELD, 107)
    assert (catching.since, catching.seq, catching.count) == (5.0, 107, 0)
    subscription.go_live()
    # It was given everything, and there was nothing.
    assert subscription.fall_behind(BEGINNING, 0.0).seq is None
    own = Catching("backfill", _HELD, 107)
    subscription.catch_up(own)
    assert subscription.catching is own
