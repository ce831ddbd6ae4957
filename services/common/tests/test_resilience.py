from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.resilience import (
    Backoff,
    Circuit,
    CircuitBreaker,
    TokenBucket,
    delay_s,
)

_DRAWS = st.floats(0, 1, exclude_max=True)


class TestBackoff:
    def test_delays_double_up_to_the_cap_and_begin_again_after_a_success(self) -> None:
        backoff = Backoff(0.25, 10.0, draw=lambda: 1.0)
        assert [backoff.next_delay() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
        assert backoff.attempts == 8
        backoff.reset()
        assert (backoff.attempts, backoff.next_delay()) == (0, 0.25)

    def test_the_first_retry_can_be_immediate(self) -> None:
        backoff = Backoff(0.25, 10.0, immediate=True, draw=lambda: 1.0)
        assert [backoff.next_delay() for _ in range(4)] == [0, 0.25, 0.5, 1]
        backoff.reset()
        assert backoff.next_delay() == 0

    @given(
        st.integers(0, 10_000),
        st.floats(0.001, 10),
        st.floats(0.001, 1000),
        st.floats(0, 1),
        _DRAWS,
    )
    def test_a_delay_lies_between_its_least_share_and_the_bound(
        self, attempt: int, first_s: float, cap_s: float, least: float, draw: float
    ) -> None:
        bound = min(cap_s, first_s * 2.0 ** min(attempt, 30))
        delay = delay_s(attempt, first_s=first_s, cap_s=cap_s, least=least, draw=lambda: draw)
        assert bound * least * (1 - 1e-9) <= delay <= bound * (1 + 1e-9)
        assert least < 1 or delay == bound, "without jitter the delay is the bound"

    @given(st.lists(_DRAWS, min_size=1, max_size=60), st.booleans())
    def test_a_counted_delay_is_that_of_its_attempt(
        self, draws: list[float], immediate: bool
    ) -> None:
        numbers, again = iter(draws), iter(draws)
        backoff = Backoff(0.1, 2.0, immediate=immediate, draw=lambda: next(numbers))
        if immediate:
            assert backoff.next_delay() == 0
        for attempt in range(len(draws)):
            expected = delay_s(attempt, first_s=0.1, cap_s=2.0, draw=lambda: next(again))
            assert backoff.next_delay() == expected


class TestTokenBucket:
    @given(st.lists(st.floats(0, 3), max_size=100), st.floats(0.5, 50), st.integers(1, 20))
    def test_it_never_gives_more_than_rate_and_burst(
        self, pauses: list[float], rate: float, burst: int
    ) -> None:
        now = 0.0
        bucket = TokenBucket(rate, burst, now)
        given_out = 0
        for pause in pauses:
            now += pause
            wait = bucket.acquire(now)
            if wait > 0:
                assert bucket.wait(now) == pytest.approx(wait)
                now += wait + 1e-6
                assert bucket.acquire(now) == 0
            given_out += 1
        assert given_out <= burst + rate * now + 1e-3

    @given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100))))
    def test_what_is_charged_is_paid_off_and_never_more_than_a_burst(
        self, charges: list[tuple[float, float]]
    ) -> None:
        now, bucket = 0.0, TokenBucket(2.0, 10.0, 0.0)
        for pause, tokens in charges:
            now += pause
            bucket.charge(now, tokens)
        wait = bucket.acquire(now)
        assert 0 <= wait <= 11 / 2.0
        # Without a wait it was taken at once.
        assert wait == 0 or bucket.acquire(now + wait + 1e-6) == 0

    @given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
    def test_reserved_tokens_are_used_in_turn_and_never_more_than_burst_plus_rate(
        self, steps: list[float]
    ) -> None:
        bucket = TokenBucket(10, 15, 0.0)
        now, uses = 0.0, []
        for step in steps:
            now += step
            told = bucket.wait(now)
            delay = bucket.reserve(now)
            assert told == pytest.approx(delay, abs=1e-9)
            uses.append(now + delay)
        assert uses == sorted(uses)
        for start in range(len(uses)):
            for end in range(start, len(uses)):
                assert end - start + 1 <= 15 + 10 * (uses[end] - uses[start]) + 1e-6

    def test_a_burst_is_served_at_once_and_then_in_turn(self) -> None:
        bucket = TokenBucket(10, 3, 100.0)
        assert [round(bucket.reserve(100.0), 6) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
        assert bucket.wait(100.0) == pytest.approx(0.3)
        assert bucket.reserve(200.0) == 0

    @given(st.floats(0, 8), st.floats(0, 20))
    def test_what_has_to_be_spared_is_left_for_others(self, spare: float, taken: float) -> None:
        bucket = TokenBucket(1, 10, 0.0)
        bucket.charge(0.0, taken)
        wait = bucket.acquire(0.0, spare=spare)
        if wait == 0:
            # What 9 tokens less one leave is no exact sum of floats.
            assert bucket.wait(0.0, spare) <= 1e-9
        else:
            assert bucket.acquire(wait + 1e-6, spare=spare) == 0

    def test_a_refusal_for_too_many_requests_empties_it_and_is_no_request_itself(self) -> None:
        bucket = TokenBucket(10, 3, 100.0)
        bucket.drain(100.0)
        assert bucket.reserve(100.0) == pytest.approx(0.1)
        bucket.drain(100.0)
        assert bucket.reserve(100.0) == pytest.approx(0.2), "a debt stays"

    def test_a_clock_that_goes_back_gives_no_tokens_twice(self) -> None:
        bucket = TokenBucket(1, 1, 10.0)
        assert bucket.acquire(10.0) == 0
        assert bucket.acquire(5.0) > 0
        assert bucket.acquire(10.0) > 0

    @pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0.5)])
    def test_a_bucket_that_could_never_give_is_refused(self, rate: float, burst: float) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            TokenBucket(rate, burst, 0.0)


class TestCircuitBreaker:
    def test_it_opens_after_failures_in_a_row_and_closes_after_a_good_probe(self) -> None:
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

    def test_a_probe_that_was_given_up_does_not_keep_it_open(self) -> None:
        breaker = CircuitBreaker(threshold=1, recovery_s=1.0)
        breaker.failed(0.0)
        assert breaker.allows(1.0)
        assert breaker.allows(2.0)

    @given(
        st.integers(1, 5),
        st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["good", "bad", "silent"]))),
    )
    def test_an_open_circuit_lets_one_call_through_in_each_recovery_time(
        self, threshold: int, calls: list[tuple[float, str]]
    ) -> None:
        breaker = CircuitBreaker(threshold, 1.0)
        now, row, last = 0.0, 0, -10.0
        for pause, outcome in calls:
            now += pause
            shut = breaker.state is not Circuit.CLOSED
            told = breaker.wait(now)
            if not breaker.allows(now):
                assert shut
                assert told > 0
                continue
            assert told == 0
            assert not shut or now >= last + 1.0 - 1e-9
            last = now if shut else last
            if outcome == "good":
                breaker.succeeded()
                row = 0
            elif outcome == "bad":
                breaker.failed(now)
                row += 1
                opened = breaker.state is Circuit.OPEN
                assert opened == (shut or row >= threshold)
                last = now if opened else last
