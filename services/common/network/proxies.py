"""The usual proxy variables, read once for every client alike. Pure: the environment is given.

`https_proxy` and `http_proxy` stand for the schemes' WebSockets too, `all_proxy` for both, and
`no_proxy` lists what is reached directly: names (with all below them), addresses, networks
(`10.0.0.0/8`, `fd00::/8`), each with a port or without, or `*`. Lower case wins over upper case. As
in Go, this machine itself is always reached directly.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_SECURE = {"https", "wss"}
_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_SCHEMES = ("http", "https")
_SEPARATORS = re.compile(r"[,\s]+")
_BRACKETED = re.compile(r"\[(?P<host>[^\]]*)\](?::(?P<port>\d+))?")
_CREDENTIALS = re.compile(r"//[^/@]*@")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class BadProxy(ValueError):
    """A proxy variable that cannot be obeyed; the text is one line that names it."""

    def __init__(self, variable: str, value: str, why: str) -> None:
        self.variable = variable
        shown = _CREDENTIALS.sub("//***@", value)
        super().__init__(f"{variable}={shown!r}: {why}; expected http://host:port")


def proxy_for(url: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The proxy through which `url` is reached, as a URL with a scheme; None: directly.

    Args:
        url: of a scheme http, https, ws or wss.
        environment: None is this process's own.

    Raises:
        BadProxy: the variable that stands for it is no HTTP proxy.
    """
    environment = os.environ if environment is None else environment
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_loopback(host) or _bypasses(
        host, parts.port or _PORTS.get(parts.scheme, 0), environment
    ):
        return None
    own = "https_proxy" if parts.scheme in _SECURE else "http_proxy"
    for name in (own, "all_proxy"):
        for variable in (name, name.upper()):
            value = environment.get(variable, "").strip()
            if value:
                return _checked(variable, value)
    return None


def _checked(variable: str, value: str) -> str:
    proxy = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(proxy)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise BadProxy(variable, value, str(error)) from error
    if parts.scheme.startswith("socks"):
        raise BadProxy(variable, value, "SOCKS is not supported")
    if parts.scheme not in _SCHEMES:
        raise BadProxy(variable, value, f"not a proxy's scheme: {parts.scheme!r}")
    if not host or port == 0:
        raise BadProxy(variable, value, "no host" if not host else "no port")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadProxy(variable, value, "a proxy has no path")
    if parts.username is not None and parts.password is None:
        raise BadProxy(variable, value, "a user without a password")
    return proxy


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host.casefold() == "localhost" if address is None else address.is_loopback


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bypasses(host: str, port: int, environment: Mapping[str, str]) -> bool:
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return any(_covers(entry, host, port) for entry in _SEPARATORS.split(listed) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` means this host. What it cannot mean is nothing."""
    if entry == "*":
        return True
    name, wanted = _host_and_port(entry)
    if wanted is not None and wanted != port:
        return False
    address = _address(host)
    if address is not None:
        try:
            network = ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
        return address.version == network.version and address in network
    suffix = name.removeprefix("*").removeprefix(".").casefold()
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _host_and_port(entry: str) -> tuple[str, int | None]:
    bracketed = _BRACKETED.fullmatch(entry)
    if bracketed is not None:
        return bracketed["host"], int(bracketed["port"]) if bracketed["port"] else None
    if "://" in entry:
        entry = entry.partition("://")[2].partition("/")[0]
    name, colon, port = entry.rpartition(":")
    # An IPv6 address has colons of its own.
    if colon and ":" not in name and port.isdigit():
        return name, int(port)
    return entry, None
