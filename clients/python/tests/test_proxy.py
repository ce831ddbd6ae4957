"""Proxy settings that cannot be used end in one line that names them, not in a traceback."""

from __future__ import annotations

import pytest
from market_data_fanout_client import Client, Refused

URL = "wss://gateway.example.invalid/ws"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "proxy.example:3128"),
        ("HTTPS_PROXY", "127.0.0.1:3128"),
        ("https_proxy", "http://[::1"),
        ("HTTPS_PROXY", "http://user@127.0.0.1:3128"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:21"),
        ("SOCKS_PROXY", "socks5://127.0.0.1:1080"),
    ],
)
async def test_a_variable_that_cannot_be_obeyed_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    for name in ("ALL_PROXY", "HTTPS_PROXY", "https_proxy", "SOCKS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    async with Client(URL) as client:
        await client.subscribe("BTC-USD")
        with pytest.raises(Refused) as refused:
            await anext(client)
    assert variable in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_given_proxy_that_cannot_be_used_is_named() -> None:
    async with Client(URL, proxy="proxy.example:3128") as client:
        await client.subscribe("BTC-USD")
        with pytest.raises(Refused, match=r"proxy: proxy\.example:3128"):
            await anext(client)
