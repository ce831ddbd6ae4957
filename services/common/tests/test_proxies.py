"""What the usual proxy variables mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.network.proxies import BadProxy, proxy_for

WS = "wss://ws-feed.exchange.coinbase.com"
REST = "https://api.exchange.coinbase.com"
PROXY = "http://proxy.corp:3128"


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"HTTPS_PROXY": "proxy.corp:3128"}, PROXY),
        ({"HTTPS_PROXY": "10.0.0.1:3128"}, "http://10.0.0.1:3128"),
        ({"HTTPS_PROXY": " "}, None),
        ({"ALL_PROXY": "https://u:p@proxy.corp"}, "https://u:p@proxy.corp"),
        ({"https_proxy": PROXY, "ALL_PROXY": "socks5://127.0.0.1:1080"}, PROXY),
        ({"HTTP_PROXY": "ftp://nobody"}, None),
        ({"ALL_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "coinbase.com"}, None),
    ],
)
def test_the_same_proxy_is_meant_for_socket_and_rest(
    environment: dict[str, str], proxy: str | None
) -> None:
    assert [proxy_for(url, environment) for url in (WS, REST)] == [proxy, proxy]


def test_plain_addresses_have_a_variable_of_their_own() -> None:
    environment = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": "http://other:1"}
    assert proxy_for("ws://venue.example", environment) == PROXY
    assert proxy_for("http://venue.example", environment) == PROXY


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://127.0.0.1:1080", "SOCKS is not supported"),
        ("socks5h://u:secret@h:1", "SOCKS is not supported"),
        ("ftp://proxy:1", "not a proxy's scheme"),
        ("http://proxy:99999", "Port"),
        ("http://proxy:0", "no port"),
        ("http://[bad", "IPv6"),
        ("http://", "no host"),
        ("http://proxy:1/path", "has no path"),
        ("http://user@proxy:1", "without a password"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_in_one_line_without_its_password(
    value: str, words: str
) -> None:
    with pytest.raises(BadProxy, match=words) as bad:
        proxy_for(WS, {"ALL_PROXY": value})
    text = str(bad.value)
    assert text.startswith("ALL_PROXY=")
    assert "\n" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("*", "anything.example", True),
        ("example.com", "api.example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "badexample.com", False),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("EXAMPLE.com", "api.example.com", True),
        ("example.com:443", "api.example.com", True),
        ("example.com:8443", "api.example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "[fd00::5]", True),
        ("fe80::/10", "[fd00::5]", False),
        ("fd00::5", "[fd00::5]", True),
        ("[fd00::5]:443", "[fd00::5]", True),
        ("[fd00::5]:80", "[fd00::5]", False),
        ("::1,10.0.0.0/8, example.com", "api.example.com", True),
        ("10.0.0.0/8 example.com", "api.example.com", True),
        ("[,]:,::::,/,-,10.0.0.0/99", "api.example.com", False),
    ],
)
def test_no_proxy_means_names_addresses_and_networks(listed: str, host: str, direct: bool) -> None:
    environment = {"HTTPS_PROXY": PROXY, "no_proxy": listed}
    assert proxy_for(f"wss://{host}/", environment) == (None if direct else PROXY)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.9.1"])
def test_this_machine_is_behind_no_proxy(host: str) -> None:
    environment = {"ALL_PROXY": "socks5://x:1", "HTTP_PROXY": PROXY}
    assert proxy_for(f"ws://{host}:8765", environment) is None


@given(st.text(), st.text(), st.sampled_from((WS, "http://10.0.0.1:1", "wss://[fd00::1]:5")))
def test_no_value_is_worse_than_a_bad_proxy(proxy: str, listed: str, url: str) -> None:
    said = ""
    try:
        found = proxy_for(url, {"ALL_PROXY": proxy, "no_proxy": listed})
    except BadProxy as bad:
        found, said = None, str(bad)
    assert "\n" not in said
    assert found is None or found.startswith("http")
