"""How old data is and what may be shown as live, by the cases that all clients share."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data_conformance.script import FRESHNESS
from market_data_fanout_client.freshness import (
    LIMIT_US,
    Facts,
    ServerClock,
    judge,
    lost_after_us,
    silent_after_us,
)

CASES: dict[str, Any] = json.loads(FRESHNESS.read_text())
SECOND = 1_000_000


@pytest.mark.parametrize("case", CASES["lost"], ids=lambda case: str(case["heartbeat"]))
def test_when_a_line_counts_as_lost(case: dict[str, int]) -> None:
    assert silent_after_us(case["heartbeat"]) == case["silent_after"]
    assert lost_after_us(case["heartbeat"]) == case["lost_after"]


@pytest.mark.parametrize("case", CASES["clock"], ids=lambda case: case["about"])
def test_what_the_servers_clock_shows(case: dict[str, Any]) -> None:
    clock = ServerClock()
    for server, now, asked in case["heard"]:
        clock.heard(server, now, asked)
    for now, expected in case["now"]:
        assert clock.now_us(now) == expected


@pytest.mark.parametrize("case", CASES["verdicts"], ids=lambda case: case["about"])
def test_what_may_be_shown_as_live(case: dict[str, Any]) -> None:
    found = judge(Facts(**case["facts"]), **case["context"])
    assert (found.state, found.age_ms) == (case["state"], case["age_ms"])
    assert found.fresh == (case["state"] in ("live", "quiet"))
    assert (found.mode, found.lag) == (case["facts"]["mode"], case["facts"]["lag"])


ways = st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=20)


@given(offset=st.integers(-(10**15), 10**15), ways=ways, first=st.integers(0, 20 * SECOND))
def test_data_is_never_shown_younger_than_it_is_where_the_first_answer_bounds_it(
    offset: int, ways: list[int], first: int
) -> None:
    """Whatever each message's way took: no age is too small by more than what is called unsure."""
    clock, now = ServerClock(), 10**9
    clock.heard(now + offset, now + first, asked=now)
    now += first
    for way in ways:
        now += 5 * SECOND
        clock.heard(now + offset, now + way, None)
        now += way
        found = clock.now_us(now)
        assert found is not None
        elapsed = now - 10**9
        assert found - (now + offset) >= -SECOND - elapsed // 10_000 - 1
        # And never later than if the first answer's whole time had been its way here.
        assert found - (now + offset) <= 0


@given(offset=st.integers(-(10**15), 10**15), ways=ways)
def test_the_quickest_message_tells_the_time(offset: int, ways: list[int]) -> None:
    clock, now = ServerClock(), 10**9
    for way in ways:
        now += 20 * SECOND
        clock.heard(now + offset, now + way)
    found = clock.now_us(now + 20 * SECOND)
    assert found is not None
    late = now + 20 * SECOND + offset - found
    assert min(ways) <= late <= min(ways) + (len(ways) + 1) * 2000 + 1


@given(
    feed=st.sampled_from(["", "live", "quiet", "stale", "resyncing", "down", "new"]),
    mode=st.sampled_from(["full", "latest", "catch_up"]),
    accepted=st.sampled_from([True, False, None]),
    as_of=st.none() | st.integers(0, 60 * SECOND),
    silent=st.none() | st.integers(0, 60 * SECOND),
    heartbeat=st.integers(1, 5 * SECOND),
    broken=st.booleans(),
    backfilling=st.booleans(),
)
def test_nothing_is_fresh_that_is_not_connected_whole_and_young(
    feed: str,
    mode: str,
    accepted: bool | None,
    as_of: int | None,
    silent: int | None,
    heartbeat: int,
    broken: bool,
    backfilling: bool,
) -> None:
    facts = Facts(accepted, feed, mode, 0, as_of, as_of)
    now = 60 * SECOND
    found = judge(
        facts,
        silent=silent,
        heartbeat=heartbeat,
        server_now=now,
        broken=broken,
        backfilling=backfilling,
    )
    if found.fresh:
        assert silent is not None
        assert silent <= 2 * heartbeat
        assert accepted
        assert as_of is not None
        assert now - as_of <= LIMIT_US
        assert feed not in ("stale", "down", "resyncing")
        assert not broken
        assert not backfilling
        assert mode != "catch_up"
