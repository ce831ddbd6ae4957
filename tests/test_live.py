"""The live way, whole: `wss` and `https` with an authority, through a proxy, as `make live` does.

Nothing leaves this machine. A proxy is asked for the venue's own names, and leads to the simulated
exchange behind TLS, whose certificate an authority of the test's own has signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from tests.stack_process import stack_process
from tools.simulator import SimulatedExchange

pytestmark = pytest.mark.e2e

NAMES = ("ws-feed.exchange.coinbase.com", "api.exchange.coinbase.com")


async def pipe(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Carry bytes both ways until one side ends."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever is cut off while it speaks has nothing more to say.
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(carry(one[0], other[1]))
        group.create_task(carry(other[0], one[1]))


@contextlib.asynccontextmanager
async def behind_tls(authority: trustme.CA, port: int) -> AsyncIterator[int]:
    """Something that speaks TLS, as the venue, and is the server at `port` inside."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*NAMES).configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await pipe((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


class Proxy:
    """An HTTP CONNECT proxy that leads to one place, whatever it is asked for."""

    def __init__(self, port: int, *, refuses: bool = False) -> None:
        self._port = port
        self._refuses = refuses
        self.asked: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        self.asked[f"{method} {target}"] += 1
        if self._refuses:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        inner = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await pipe((reader, writer), inner)


@contextlib.asynccontextmanager
async def proxying(proxy: Proxy) -> AsyncIterator[str]:
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


def live(authority: Path, **proxies: str) -> dict[str, str]:
    return {
        "UPSTREAM": "coinbase",
        "DURATION": "6",
        "PRODUCTS": "BTC-USD",
        "SSL_CERT_FILE": str(authority),
        # What the test's own environment says of proxies must not decide.
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "no_proxy"), ""),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"), ""),
        **proxies,
    }


async def test_the_live_feed_comes_over_tls_and_through_a_proxy(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    async with (
        SimulatedExchange(products=("BTC-USD",), rate=100, depth=50) as exchange,
        behind_tls(authority, exchange.port) as port,
    ):
        # A lost trade is fetched over REST, which goes the same way.
        exchange.control(drop={"probability": 0.05, "types": ["match"]})
        proxy = Proxy(port)
        async with proxying(proxy) as address:
            # Without a scheme, as many set it; beside it what httpx cannot read.
            environment = live(
                certificate, HTTPS_PROXY=address, no_proxy="::1,10.0.0.0/8,fe80::/10"
            )
            async with stack_process(folder=tmp_path, environment=environment) as stack:
                status = await stack.finish()
                assert status == 0, stack.output
                summary = stack.summary()
    assert summary["upstream"] == "coinbase"
    assert all(summary["ticks_by_channel"].values())
    # The live venue tells nobody the truth.
    assert (summary["books_equal"], summary["trades_equal"]) == (None, None)
    assert set(proxy.asked) == {f"CONNECT {name}:443" for name in NAMES}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://127.0.0.1:1080"), ("HTTPS_PROXY", "http://proxy:99999")],
)
async def test_a_proxy_that_cannot_be_used_is_one_line_that_names_the_variable(
    tmp_path: Path, variable: str, value: str
) -> None:
    environment = live(tmp_path / "none", **{variable: value}) | {"SSL_CERT_FILE": ""}
    async with stack_process(folder=tmp_path, environment=environment) as stack:
        assert await stack.finish() == 1
        assert f"settings: {variable}='{value}': " in stack.output
        assert "Traceback" not in stack.output
