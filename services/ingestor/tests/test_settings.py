from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import SettingsError
from services.common.settings import load
from services.ingestor.cb_rest import CoinbaseRest
from services.ingestor.settings import Settings
from services.ingestor.wiring import silence_rule


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (*Settings.model_fields, *proxies):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def problems(environment: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(Settings)
    return str(caught.value)


def test_the_defaults_are_the_public_feed(environment: pytest.MonkeyPatch) -> None:
    settings = load(Settings)
    assert settings.coinbase_products == ("BTC-USD", "ETH-USD")
    assert set(settings.coinbase_channels) == {"ticker", "heartbeat", "matches", "level2_batch"}
    assert settings.endpoints == ("wss://ws-feed.exchange.coinbase.com",)
    assert settings.credentials is None


def test_the_direct_host_is_a_fallback_only_with_a_key(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COINBASE_API_KEY", "key")
    environment.setenv("COINBASE_API_SECRET", "c2VjcmV0")
    environment.setenv("COINBASE_API_PASSPHRASE", "phrase")
    assert load(Settings).endpoints == (
        "wss://ws-feed.exchange.coinbase.com",
        "wss://ws-direct.exchange.coinbase.com",
    )


def test_heartbeats_are_always_subscribed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("COINBASE_CHANNELS", "matches")
    assert load(Settings).coinbase_channels == ("heartbeat", "matches")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"COINBASE_PRODUCTS": "BTC.USD"}, "COINBASE_PRODUCTS"),
        ({"COINBASE_CHANNELS": "tickers"}, "COINBASE_CHANNELS"),
        ({"COINBASE_WS_PRIMARY": "http://x"}, "COINBASE_WS_PRIMARY"),
        ({"COINBASE_API_KEY": "only"}, "COINBASE_API_PASSPHRASE"),
        ({"COINBASE_CHANNELS": "full,level2_batch"}, "COINBASE_CHANNELS"),
        ({"COINBASE_CHANNELS": "level3,full"}, "COINBASE_CHANNELS"),
        ({"RESYNC_MAX_QUEUE_MS": "soon"}, "RESYNC_MAX_QUEUE_MS='soon'"),
    ],
)
def test_a_malformed_setting_is_named(
    environment: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    assert named in problems(environment, **variables)


@pytest.mark.parametrize("channel", ["full", "level2", "level3"])
def test_pitfall_12_a_channel_that_needs_a_key_is_refused_without_one(
    environment: pytest.MonkeyPatch, channel: str
) -> None:
    """Since August 2023 (cryptofeed #990): better said at the start than by the venue."""
    said = problems(environment, COINBASE_CHANNELS=f"{channel},ticker")
    assert "COINBASE_CHANNELS" in said
    assert "COINBASE_API_KEY" in said


def test_a_secret_is_never_printed(environment: pytest.MonkeyPatch) -> None:
    given: Any = {"COINBASE_API_SECRET": "not base64!"}
    assert "not base64!" not in problems(environment, **given)


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_proxy_that_cannot_be_used_is_a_problem_of_its_variable(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    text = problems(environment, **{name: "socks5://user:secret@127.0.0.1:1080"})
    assert text.startswith(f"{name}='socks5://***@127.0.0.1:1080': SOCKS is not supported")
    environment.setenv("NO_PROXY", "exchange.coinbase.com")
    assert load(Settings).coinbase_rest_url.endswith("exchange.coinbase.com")


@pytest.mark.parametrize("listed", ["::1", "10.0.0.0/8,fe80::/10", "[::1]:8080,*.x", "[,]:,::::"])
async def test_what_no_proxy_may_hold_never_ends_the_rest_client(
    environment: pytest.MonkeyPatch, listed: str
) -> None:
    environment.setenv("no_proxy", listed)
    environment.setenv("HTTPS_PROXY", "proxy.example:3128")
    async with CoinbaseRest(load(Settings).coinbase_rest_url):
        pass


@pytest.mark.parametrize(
    ("name", "good", "beyond"),
    [
        ("BOOK_SILENT_STEPS", "0", "-1"),
        ("BOOK_SILENT_GRACE_MS", "250", "249"),
        ("BOOK_SILENT_GRACE_MS", "60000", "60001"),
    ],
)
def test_bounds_of_silence(
    environment: pytest.MonkeyPatch, name: str, good: str, beyond: str
) -> None:
    environment.setenv(name, good)
    load(Settings)
    assert name in problems(environment, **{name: beyond})


def test_the_rule_of_silence_is_what_is_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BOOK_SILENT_STEPS", "50")
    environment.setenv("BOOK_SILENT_GRACE_MS", "4000")
    assert silence_rule(load(Settings)) == (50, 4_000_000)
