"""The last line of a demo, and when it may say that all went well."""

from __future__ import annotations

from typing import Any

from market_data_fanout_client.chain import ChainCounts

from tools.latency import LatencyHistogram
from tools.stack.gap import GapFigures
from tools.stack.options import StackOptions
from tools.stack.summary import Observation, problems, summary

METRICS = """\
# TYPE md_seq_gap_total counter
md_seq_gap_total{channel="trades",cause="missing"} 2.0
md_seq_gap_total{channel="book",cause="suspect"} 1.0
# TYPE md_resync_total counter
md_resync_total{channel="trades",outcome="refilled"} 2.0
md_resync_total{channel="trades",outcome="lost"} 1.0
md_resync_total{channel="book",outcome="snapshot"} 5.0
"""


def seen(**more: Any) -> Observation:
    values: dict[str, Any] = {
        "expected": ("ticker",),
        "counts": {"ticker": ChainCounts(applied=3), "book": ChainCounts()},
        "clients": 1,
        "latency": LatencyHistogram(),
        "gaps": GapFigures(),
        **more,
    }
    return Observation(**values)


def line(observation: Observation) -> dict[str, Any]:
    return summary(observation, ("BTC-USD",), StackOptions())


def test_figures_are_added_up_over_products_and_causes() -> None:
    figures = GapFigures.parse(METRICS)
    assert (figures.detected, figures.healed) == (3, 3)
    assert figures.outcomes == {"lost": 1, "refilled": 2, "snapshot": 5}


def test_all_is_well_when_every_expected_channel_had_ticks() -> None:
    assert problems(seen()) == []
    result = line(seen())
    assert (result["ok"], result["ticks"], result["chain_breaks"]) == (True, 3, 0)
    assert result["latency_ms_p50"] is None


def test_a_silent_channel_is_named() -> None:
    assert problems(seen(expected=("ticker", "book"))) == ["no ticks on book"]
    assert not line(seen(expected=("book",)))["ok"]


def test_an_unexplained_break_is_a_failure_and_a_change_of_epoch_is_not() -> None:
    broken = {"ticker": ChainCounts(applied=3, breaks=2, epochs=1)}
    assert problems(seen(counts=broken)) == ["1 unexplained chain breaks"]
    renumbered = {"ticker": ChainCounts(applied=3, breaks=1, epochs=1)}
    assert problems(seen(counts=renumbered)) == []


def test_a_gap_that_was_made_has_to_be_found_and_healed() -> None:
    assert problems(seen(wants_gap=True)) == ["the gap that was made was not detected"]
    assert problems(seen(wants_gap=True, gaps=GapFigures(2, 1))) == ["2 gaps detected, 1 healed"]
    assert problems(seen(wants_gap=True, gaps=GapFigures(2, 2))) == []


def test_without_the_ingestors_figures_it_cannot_be_well() -> None:
    assert problems(seen(gaps=None)) == ["the ingestor's metrics could not be read"]


def test_what_did_not_come_because_a_run_ended_early_is_no_problem_of_its_own() -> None:
    early = seen(failure="gateway ended with status 1", gaps=None, expected=("book",))
    assert problems(early) == ["gateway ended with status 1"]
