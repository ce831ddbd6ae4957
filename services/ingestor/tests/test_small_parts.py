from __future__ import annotations

import pytest

from services.common.stream.storing import NOT_STORING_S, Storing
from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.feed.lifecycle import TRANSITIONS, FeedEvent, FeedState, next_state
from services.ingestor.feed.stats import FeedStats, StreamStats
from services.ingestor.metrics import FeedCollector


def test_every_state_can_be_reached_and_left() -> None:
    reached = {FeedState.STOPPED}
    while True:
        more = {to for (state, _), to in TRANSITIONS.items() if state in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(FeedState)
    for state in FeedState:
        assert next_state(state, FeedEvent.ENDED) is FeedState.STOPPED


def test_an_event_that_fits_nowhere_is_a_defect() -> None:
    with pytest.raises(ValueError, match="stopped cannot have flowing"):
        next_state(FeedState.STOPPED, FeedEvent.FLOWING)


@pytest.mark.parametrize(
    ("state", "well", "stored_nothing"),
    [("live", 0, 3), ("quiet", 1, 3), ("resyncing", 2, 3), ("stale", 3, 3), ("down", 4, 4)],
)
def test_no_stream_is_live_while_nothing_is_stored(
    state: StreamState, well: int, stored_nothing: int
) -> None:
    stream = StreamStats(StreamKey("coinbase", "ticker", "BTC-USD"), state, 900.0, 1.0)
    feed = FeedStats("coinbase", "coinbase-0", True, 1, 0, 0, 0, 1.0, (stream,))
    stalled_s = 0.0
    collector = FeedCollector(lambda: [feed], dict, lambda: Storing(stalled_s, 1, "disk full"))

    def told() -> tuple[float, float]:
        found = {metric.name: metric.samples for metric in collector.collect()}
        [now], [held] = found["md_stream_state"], found["md_stream_state_seconds"]
        return now.value, held.value

    assert told() == (well, 900.0)
    stalled_s = NOT_STORING_S
    overruled = stored_nothing != well
    assert told() == (stored_nothing, NOT_STORING_S if overruled else 900.0)
