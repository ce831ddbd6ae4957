"""The page on capacity is what the model gives, and the model is what the page says."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tools.capacity.__main__ import DOCUMENT, filled, main, reckoning
from tools.capacity.model import Fleet


def test_the_page_has_the_tables_of_the_model() -> None:
    text = DOCUMENT.read_text()
    assert "<!-- capacity " in text
    assert filled(text) == text, "run `python -m tools.capacity --write`"


def test_a_gateways_connections_are_those_of_the_formulas_on_the_page() -> None:
    gateway = reckoning({}).gateway
    assert gateway.by_cpu == int((0.6 - 5000 * 5.7e-6) / (10 * 7.8e-6))
    assert gateway.by_memory == int((1024 - 110 - 256) * 1024 / (42 + 4 * 2))


def test_what_the_text_says_of_the_fleet_is_what_the_model_gives() -> None:
    gateway = reckoning({}).gateway
    ten_million = Fleet(10_000_000, gateway)
    text = DOCUMENT.read_text()
    assert f"{ten_million.egress_gbit:.0f} Gbit/s to clients" in text
    assert f"{ten_million.gateways:,} gateways on {ten_million.nodes:,} nodes" in text
    assert ten_million.most_readers == pytest.approx(620, abs=5)
    assert f"{gateway.intake_mbit:.0f} Mbit/s for each gateway" in text
    assert Fleet(0, gateway).requests_s / 3 == pytest.approx(1 / 2 + 8 / 10)


@given(st.integers(1, 10**7), st.sampled_from([1.0, 10.0]), st.sampled_from([500.0, 20_000.0]))
def test_a_fleet_holds_everybody_with_a_zone_away_and_is_fed(
    clients: int, messages_s: float, ticks_s: float
) -> None:
    gateway = reckoning({"messages_s": messages_s, "ticks_s": ticks_s}).gateway
    fleet = Fleet(clients, gateway)
    assert fleet.gateways * 2 // 3 * gateway.connections >= clients - gateway.connections
    assert fleet.readers <= max(fleet.most_readers, 3)


def test_figures_of_ones_own_are_taken_and_unknown_ones_refused() -> None:
    answer = CliRunner().invoke(main, ["--set", "delivery_us=3.9"])
    assert answer.exit_code == 0
    assert f"{reckoning({'delivery_us': 3.9}).gateway.by_cpu:,}" in answer.output
    refused = CliRunner().invoke(main, ["--set", "deliverie=1"])
    assert refused.exit_code == 2
    assert "deliverie" in refused.output
