from __future__ import annotations

import pytest

from services.common.stream.records import NOT_STORING_S, Storing
from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.feed.connection import STEPS, FeedState, checked_step
from services.ingestor.feed_metrics import shown_state
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream import StreamStateTracker
from services.ingestor.testing import RawLog

NOW = 1_700_000_000_000_000


def test_every_state_can_be_reached_and_left() -> None:
    reached = {FeedState.STOPPED}
    while more := {after for state in reached for after in STEPS[state]} - reached:
        reached |= more
    assert reached == set(FeedState)
    for state in FeedState:
        assert checked_step(state, FeedState.STOPPED) is FeedState.STOPPED


def test_a_step_that_fits_nowhere_is_a_defect() -> None:
    with pytest.raises(ValueError, match="stopped cannot become active"):
        checked_step(FeedState.STOPPED, FeedState.ACTIVE)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("live", "stale"),
        ("quiet", "stale"),
        ("resyncing", "stale"),
        ("stale", "stale"),
        ("down", "down"),
    ],
)
def test_no_stream_is_live_while_nothing_is_stored(state: StreamState, shown: StreamState) -> None:
    key = StreamKey("coinbase", "ticker", "BTC-USD")
    tracker = StreamStateTracker(RawStreamWriter(key, "test", RawLog().offer, epoch=1), 0)
    tracker.clear("down", "connected", NOW)
    if state != "live":
        tracker.raise_(state, "said so", NOW)
    now = NOW + 900_000_000

    def told(stalled_s: float) -> tuple[StreamState, float]:
        return shown_state(tracker, now, Storing(stalled_s, 1, "disk full"))

    assert told(0.0) == (state, 900.0)
    assert told(NOT_STORING_S) == (shown, NOT_STORING_S if shown != state else 900.0)
