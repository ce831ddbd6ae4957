"""The page on sizing says what its script reckons."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.dev.sizing import FIGURES, PRICES, egress_usd, main, month, needs

PAGE = (Path(__file__).parents[3] / "docs" / "operations" / "sizing.md").read_text()
MEDIUM = {**FIGURES, **PRICES}
SMALL = {**MEDIUM, "clients": 1000, "products": 10, "ticks_s": 500, "checkpoint_period_s": 10}
LARGE = {
    **MEDIUM,
    "clients": 200_000,
    "products": 700,
    "ticks_s": 20_000,
    "row_period_s": 2,
    "checkpoint_period_s": 60,
    "nats_hour": PRICES["nats_hour"] * 4,
}


def test_the_page_has_the_scripts_figures() -> None:
    for name, value in FIGURES.items():
        if f"| `{name}` |" in PAGE:
            assert f"| `{name}` | {value:g} |" in PAGE, name


def test_the_page_has_the_scripts_bills_and_what_a_gateway_holds() -> None:
    totals = " | ".join(f"**${month(size)['a month']:,.0f}**" for size in (SMALL, MEDIUM, LARGE))
    assert f"| **a month** | {totals} |" in PAGE
    loads: tuple[dict[str, float], ...] = (
        {},
        {"messages_s": 1, "merged": 1},
        {"messages_s": 60},
        {"ticks_s": 20_000},
    )
    held = [needs({**MEDIUM, **load})["connections of a gateway"] for load in loads]
    assert f"| **it holds** | {' | '.join(f'**{count:,}**' for count in held)} |" in PAGE


def test_egress_goes_by_steps() -> None:
    assert egress_usd(100) == 0
    assert egress_usd(200_000) == pytest.approx(
        10_140 * 0.09 + 40_960 * 0.085 + 102_400 * 0.07 + 46_400 * 0.05
    )


@given(
    st.sampled_from(["clients", "ticks_s", "messages_s", "retention_h"]),
    st.floats(1, 4),
    st.sampled_from([SMALL, MEDIUM]),
)
def test_more_of_anything_never_costs_less(
    name: str, factor: float, size: dict[str, float]
) -> None:
    more = {**size, name: size[name] * factor}
    assert month(more)["a month"] >= month(size)["a month"] - 1e-6


def test_rows_cost_what_the_snapshotters_readme_says() -> None:
    """50 products that always change: 1200 units/s at 250 ms."""
    busy = {**MEDIUM, "products": 50, "ticks_s": 1e5, "row_period_s": 0.25}
    busy["checkpoint_period_s"] = 1e12
    units = month(busy)["DynamoDB writes"] / PRICES["write_units_million"] * 1e6
    assert units / (730 * 3600) == pytest.approx(1200)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(SystemExit, match="there is no figure 'deliverie'"):
        main(["deliverie=1"])


def test_a_load_that_no_gateway_takes_is_said() -> None:
    with pytest.raises(SystemExit, match="no core for clients"):
        main(["ticks_s=200000"])
