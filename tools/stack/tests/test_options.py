"""What a stack is told to run."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tools.stack.options import Capture, StackOptions, replay_speed, service_environment
from tools.stack.stack import PortTaken, Stack


def environment(name: str, options: StackOptions) -> dict[str, str]:
    return service_environment(
        name,
        options,
        products=("BTC-USD", "ETH-USD"),
        broker_url="nats://127.0.0.1:1",
        aws={"AWS_ENDPOINT_URL": "http://127.0.0.1:2"},
        exchange_port=None if options.upstream == "coinbase" else 3,
        http_port=4,
    )


def test_a_capture_says_which_channels_and_products_it_holds_and_how_long_it_is(
    tmp_path: Path,
) -> None:
    messages = [
        {"type": "subscriptions", "channels": []},
        {"type": "snapshot", "product_id": "BTC-USD", "bids": [], "asks": []},
        {"type": "match", "product_id": "BTC-USD", "time": "2024-01-01T00:00:01.000000Z"},
        {"type": "l2update", "product_id": "ETH-USD", "time": "2024-01-01T00:00:31.500000Z"},
        {"type": "heartbeat", "product_id": "X-Y", "time": "2024-01-01T00:00:10.000000Z"},
    ]
    path = tmp_path / "capture.ndjson"
    path.write_text("".join(json.dumps(message) + "\n" for message in messages))
    capture = Capture.scan(path)
    assert capture.products == ("BTC-USD", "ETH-USD")
    assert capture.channels == ("book", "trades")
    assert capture.seconds == pytest.approx(30.5)


@pytest.mark.parametrize(
    ("duration", "asked", "speed"),
    [(None, None, 1.0), (20.0, None, 5.0), (20.0, 2.0, 2.0), (600.0, None, 1.0)],
)
def test_a_replay_fits_into_the_duration_and_is_never_slower_than_recorded(
    duration: float | None, asked: float | None, speed: float
) -> None:
    options = StackOptions(upstream="replay", duration=duration, speed=asked)
    capture = Capture(("BTC-USD",), ("trades",), seconds=60.0)
    assert replay_speed(options, capture) == pytest.approx(speed)


def test_the_simulated_exchange_never_sees_the_users_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COINBASE_API_SECRET", "hush")
    simulated = environment("ingestor", StackOptions(upstream="sim"))
    assert "COINBASE_API_SECRET" not in simulated
    assert simulated["COINBASE_WS_PRIMARY"] == "ws://127.0.0.1:3"
    live = environment("ingestor", StackOptions(upstream="coinbase"))
    assert live["COINBASE_API_SECRET"] == "hush"
    assert "COINBASE_WS_PRIMARY" not in live


def test_only_the_services_that_use_stores_are_pointed_at_them() -> None:
    options = StackOptions()
    assert "AWS_ENDPOINT_URL" in environment("gateway", options)
    assert "AWS_ENDPOINT_URL" not in environment("normalizer", options)


def test_what_is_asked_for_a_service_wins() -> None:
    options = StackOptions(
        environment={"*": {"LOG_LEVEL": "DEBUG"}, "gateway": {"WS_QUEUE_BYTES": "9"}}
    )
    assert environment("gateway", options)["WS_QUEUE_BYTES"] == "9"
    assert "WS_QUEUE_BYTES" not in environment("ingestor", options)
    assert environment("ingestor", options)["LOG_LEVEL"] == "DEBUG"


def test_a_port_that_somebody_listens_on_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} is taken"):
            Stack(StackOptions(run_dir=tmp_path / "run", gateway_port=port))
    assert not (tmp_path / "run").exists()
