"""Reach of an address, layer by layer: its name, its port, its certificate.

A driver says "timeout" or "connection failed"; whoever has to mend it needs to know which layer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from services.common.network.proxies import BadProxy, proxy_for
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from tools.doctor import Finding

_TIMEOUT_S = 5.0
_EXPIRES_SOON_DAYS = 14
_PORTS = {
    "nats": 4222,
    "tls": 4222,
    "redis": 6379,
    "rediss": 6379,
    "http": 80,
    "ws": 80,
    "https": 443,
    "wss": 443,
}
_TLS = {"https", "wss", "rediss", "tls"}
# Only these are sent through a proxy by the services' clients.
_PROXIED = {"http", "https", "ws", "wss"}


@dataclass(frozen=True)
class Endpoint:
    """An address that something configured: `variable` names the setting, `tls` its files."""

    name: str
    url: str
    variable: str
    tls: TlsFiles = NO_TLS_FILES

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or _PORTS.get(self.scheme, 0)

    @property
    def proxy(self) -> str | None:
        """The proxy that stands between, from the environment. Raises `BadProxy`."""
        return proxy_for(self.url) if self.scheme in _PROXIED else None


async def check_network(endpoint: Endpoint) -> Finding:
    """DNS, then TCP, then TLS; the first that fails is what is found."""
    name = f"network: {endpoint.name}"
    if not endpoint.host or not endpoint.port:
        advice = f"{endpoint.variable} needs scheme://host:port"
        return Finding(name, "error", f"{endpoint.url!r} is no address", advice)
    try:
        between = endpoint.proxy
    except BadProxy as error:
        return Finding(name, "error", str(error), f"correct {error.variable}, or set NO_PROXY")
    if between is not None:
        proxy = Endpoint("proxy", between, "HTTPS_PROXY")
        found = await _reach(proxy.host, proxy.port, None)
        text = f"through the proxy {proxy.host}:{proxy.port}: {found.text}"
        if found.layer is None:
            return Finding(name, "ok", text)
        return Finding(name, "error", text, "check HTTPS_PROXY and NO_PROXY")
    context = endpoint.tls.context() if endpoint.scheme in _TLS else None
    # NATS says who it is before it speaks TLS.
    found = await _reach(endpoint.host, endpoint.port, context, greets=endpoint.scheme == "tls")
    text = f"{endpoint.host}:{endpoint.port}: {found.text}"
    if found.layer is not None:
        return Finding(name, "error", text, _advice(found.layer, endpoint))
    if found.expires_days is not None and found.expires_days < _EXPIRES_SOON_DAYS:
        return Finding(name, "warning", text, "have the certificate renewed")
    return Finding(name, "ok", text)


async def check_networks(endpoints: Iterable[Endpoint]) -> list[Finding]:
    """All at once, each address once."""
    distinct = {(one.host, one.port): one for one in endpoints}
    return list(await asyncio.gather(*(check_network(one) for one in distinct.values())))


@dataclass(frozen=True)
class _Reached:
    """`layer` is the one that failed, None when none did."""

    text: str
    layer: str | None = None
    expires_days: float | None = None


def _advice(layer: str, endpoint: Endpoint) -> str:
    return {
        "DNS": f"check the name in {endpoint.variable}, and this machine's resolver",
        "TCP": f"start it, correct {endpoint.variable}, or open the firewall / network policy",
        "TLS": "trust its CA (SSL_CERT_FILE), or correct the name so that it fits the certificate",
    }[layer]


async def _reach(
    host: str, port: int, context: ssl.SSLContext | None, *, greets: bool = False
) -> _Reached:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        return _Reached(f"the name is not found ({_why(error)})", "DNS")
    text = str(addresses[0][4][0])
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return _Reached(f"{text} does not accept a connection ({_why(error)})", "TCP")
    text += f" in {(time.monotonic() - began) * 1000:.0f} ms"
    try:
        if context is None:
            return _Reached(text)
        async with asyncio.timeout(_TIMEOUT_S):
            if greets:
                await reader.readline()
            await writer.start_tls(context, server_hostname=host)
        certificate = writer.get_extra_info("peercert")
        days = _days_left(certificate)
        version = writer.get_extra_info("ssl_object").version()
        return _Reached(f"{text}, {version}, certificate valid for {days:.0f} days", None, days)
    except (ssl.SSLError, OSError, TimeoutError) as error:
        return _Reached(f"{text}, but TLS fails ({_why(error)})", "TLS")
    finally:
        writer.close()


def _days_left(certificate: dict[str, Any]) -> float:
    return (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, TimeoutError):
        return f"no answer in {_TIMEOUT_S:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
