from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.stream.storing import NOT_STORING_S, Storing
from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.backoff import Backoff
from services.ingestor.breaker import Circuit, CircuitBreaker
from services.ingestor.feed.lifecycle import TRANSITIONS, FeedEvent, FeedState, next_state
from services.ingestor.feed.stats import FeedStats, StreamStats
from services.ingestor.metrics import FeedCollector
from services.ingestor.ratelimit import TokenBucket


def test_the_first_retry_is_immediate_and_later_ones_wait_below_a_doubling_bound() -> None:
    backoff = Backoff(0.25, 10.0, draw=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(9)] == [0, 0.25, 0.5, 1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next_delay() == 0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60))
def test_a_delay_never_exceeds_the_cap(draws: list[float]) -> None:
    numbers = iter(draws)
    backoff = Backoff(0.1, 2.0, immediate=False, draw=lambda: next(numbers))
    for _ in draws:
        assert 0 <= backoff.next_delay() <= 2.0


def test_a_bucket_serves_a_burst_at_once_and_then_in_turn() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert bucket.backlog(100.0) == 0
    assert [round(bucket.reserve(100.0), 6) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert round(bucket.backlog(100.0), 6) == 0.3
    assert bucket.reserve(200.0) == 0


def test_a_refusal_for_too_many_requests_empties_the_bucket() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    bucket.drain(100.0)
    assert bucket.reserve(100.0) == pytest.approx(0.1)


@given(steps=st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
def test_never_more_than_burst_plus_rate_calls_in_any_window(steps: list[float]) -> None:
    bucket = TokenBucket(rate=10, burst=15)
    now, uses = 0.0, []
    for step in steps:
        now += step
        uses.append(now + bucket.reserve(now))
    assert uses == sorted(uses)
    for start in range(len(uses)):
        for end in range(start, len(uses)):
            assert end - start + 1 <= 15 + 10 * (uses[end] - uses[start]) + 1e-6


def test_a_circuit_opens_after_failures_in_a_row_and_closes_after_a_good_probe() -> None:
    breaker = CircuitBreaker(threshold=3, recovery_s=1.0)
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(3):
        assert breaker.allows(0.0)
        breaker.failed(0.0)
    assert breaker.state is Circuit.OPEN
    assert not breaker.allows(0.5)
    assert breaker.allows(1.0), "the probe"
    assert not breaker.allows(1.1), "one probe at a time"
    breaker.failed(1.2)
    assert not breaker.allows(2.1)
    assert breaker.allows(2.2)
    breaker.succeeded()
    assert all(breaker.allows(2.3) for _ in range(3)), "closed again"


def test_a_probe_that_was_given_up_does_not_keep_a_circuit_open() -> None:
    breaker = CircuitBreaker(threshold=1, recovery_s=1.0)
    breaker.failed(0.0)
    assert breaker.allows(1.0)
    assert breaker.allows(2.0)


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
