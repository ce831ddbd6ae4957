"""The bill: the document is what the model gives, and the model is what the document says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.dev.costs.__main__ import DOCUMENTS, filled
from tools.dev.costs.model import SIZES, Size, bill, egress_usd
from tools.dev.costs.prices import CHANNELS, EGRESS, EGRESS_BEYOND

SMALL, MEDIUM, LARGE = SIZES


def total(size: Size) -> float:
    return sum(line.usd for line in bill(size))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_the_tables_of_the_model(document: Path) -> None:
    text = document.read_text()
    assert "<!-- costs " in text
    assert filled(text) == text, "run `python -m tools.dev.costs --write`"


def test_the_arithmetic_in_the_text_is_that_of_the_model() -> None:
    seconds = 730 * 3600
    assert seconds == 2_628_000
    assert LARGE.message_bytes == pytest.approx((582 + 26) * 1.1)
    assert LARGE.egress_gb == pytest.approx(200_000 * 10 * 668.8 * seconds / 1e9)
    assert f"{LARGE.egress_gb:,.0f} GB a month" in DOCUMENTS[0].read_text()


def test_a_record_takes_what_the_page_on_nats_reckons_with() -> None:
    text = DOCUMENTS[1].read_text()
    assert f"{SMALL.stored_bytes:,.0f} bytes in each replica" in text
    assert f"{SMALL.raw_bytes:.0f} and {SMALL.tick_bytes:.0f}\nbytes of payload" in text
    assert SMALL.log_gb == pytest.approx(500 * SMALL.stored_bytes * 7200 / 1e9)


def test_rows_cost_what_the_snapshotters_readme_says() -> None:
    """50 products that always change: 600 writes/s and 1200 units/s at 250 ms."""
    busy = Size("busy", 50, 1e6, 1, 1, row_period_s=0.25, checkpoint_period_s=1e9)
    assert busy.rows_s == pytest.approx(600)
    assert busy.write_units_s == pytest.approx(1200)
    slower = replace(busy, row_period_s=1)
    assert (slower.rows_s, slower.write_units_s) == pytest.approx((150, 300))


def test_channels_shares_are_all_ticks() -> None:
    assert sum(each.share for each in CHANNELS.values()) == pytest.approx(1)


def test_egress_is_the_largest_line_of_every_size() -> None:
    for size in SIZES:
        assert max(bill(size), key=lambda line: line.usd).item == "egress to clients"


def test_egress_goes_by_steps() -> None:
    assert egress_usd(100) == 0
    assert egress_usd(10_240) == pytest.approx(10_140 * 0.09)
    assert egress_usd(200_000) == pytest.approx(
        10_140 * 0.09 + 40_960 * 0.085 + 102_400 * 0.07 + 46_400 * 0.05
    )
    prices = [price for _, price in EGRESS[1:]] + [EGRESS_BEYOND]
    assert all(before > after for before, after in pairwise(prices))


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_more_egress_never_costs_less_and_never_more_than_the_first_price(
    one: float, more: float
) -> None:
    both = egress_usd(one + more)
    assert both + 1e-6 >= egress_usd(one)
    assert both <= (one + more) * 0.09 + 1e-6


@given(
    clients=st.integers(1, 10**6),
    ticks=st.floats(1, 5_000),
    messages=st.floats(0.1, 1000),
    factor=st.floats(1, 10),
)
def test_more_of_anything_never_costs_less(
    clients: int, ticks: float, messages: float, factor: float
) -> None:
    size = replace(MEDIUM, clients=clients, ticks_s=ticks, messages_s=messages)
    before = total(size)
    for more in (
        replace(size, clients=round(clients * factor)),
        replace(size, ticks_s=ticks * factor),
        replace(size, messages_s=messages * factor),
        replace(size, retention_h=size.retention_h * factor),
    ):
        assert total(more) >= before - 1e-6


def test_every_size_has_a_gateway_in_each_zone() -> None:
    assert SMALL.gateways == 3
    assert SMALL.gateways <= MEDIUM.gateways < LARGE.gateways
