"""The page on capacity is what the model gives, and the model is what the page says."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tools.dev.capacity.__main__ import DOCUMENT, filled, main, reckoning
from tools.dev.capacity.model import Fleet
from tools.dev.capacity.results import measured


def test_the_page_has_the_tables_of_the_model() -> None:
    text = DOCUMENT.read_text()
    assert "<!-- capacity " in text
    assert filled(text, reckoning({})) == text, "run `python -m tools.dev.capacity --write`"


def test_a_gateways_connections_are_those_of_the_formulas_on_the_page() -> None:
    figures = {"tick_us": 5.7, "delivery_us": 7.8, "connection_kib": 42.0, "stream_kib": 2.0}
    gateway = reckoning({**figures, "process_mib": 110.0}).gateway
    assert gateway.by_cpu == int((0.6 - 5000 * 5.7e-6) / (10 * 7.8e-6))
    assert gateway.by_memory == int((1024 - 110 - 256) * 1024 / (42 + 4 * 2))
    assert Fleet(0, gateway).requests_s / 3 == pytest.approx(1 / 2 + 8 / 10)


def test_a_results_file_gives_the_figures_it_measured() -> None:
    stages = [
        {"clients": 1000, "subscribed_rss_kib": 60_000},
        {
            "clients": 5000,
            "handshake_cpu_s": 0.8,
            "subscribe_cpu_s": 0.4,
            "subscribed_rss_kib": 140_000,
        },
    ]
    load = [
        {"server": server, "ticks": ticks, "cpu_us": us}
        for server, ticks, us in [
            ("limit", 1, 4.0),
            ("gateway-nats", 1, 7.0),
            ("gateway-nats", 1, 9.0),
            ("gateway-nats", 1, 6.0),
            ("gateway-nats", 10, 0.7),
        ]
    ]
    many = [{"server": "gateway", "found": {"stages": stages}}]
    file = {
        "benches": {
            "fanout": {"results": {"load": load, "many": many}},
            "tail": {"results": {"deliveries": [{"figure": "leaf_delivery_us", "us": 1.5}]}},
        },
        "cases": [
            {
                "bench": "latest",
                "case": "10 ticks merged into a client's message",
                "client_us": [12.0, 11.0, 13.0],
                "server_us": None,
            }
        ],
    }
    found = measured(file)
    assert found == {
        "delivery_us": 7.0,
        "delivery_joined_us": 0.7,
        "handshake_us": pytest.approx(200),
        "subscribe_us": pytest.approx(100),
        "connection_kib": pytest.approx(20),
        "leaf_delivery_us": 1.5,
        "merge_us": 12.0,
    }
    assert reckoning(found).figures.delivery_us == 7.0


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
