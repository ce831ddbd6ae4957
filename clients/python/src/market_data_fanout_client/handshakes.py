"""Handshakes that came to nothing: why, in words, and whether the same again would."""

from __future__ import annotations

import json
import os
from typing import Literal

from websockets.exceptions import InvalidStatus

# HTTP answers that the same handshake would get again. Those of the second kind may also come from
# a proxy while gateways are exchanged, and end only a client that never had a connection.
_REFUSALS = frozenset((401, 403))
_NO_GATEWAY = frozenset((400, 404, 405, 410, 426))
# What `proxy=True` may have been read from.
_PROXY_VARIABLES = frozenset(
    {"all_proxy", "http_proxy", "https_proxy", "no_proxy", "socks_proxy", "wss_proxy", "ws_proxy"}
)


def is_final(status: int, *, connected: bool) -> bool:
    """Whether there is nothing to be tried again; `connected`: the client once had a connection."""
    return status in _REFUSALS or (status in _NO_GATEWAY and not connected)


def refusal_reason(error: InvalidStatus) -> str:
    """What the gateway says in the body of a refused handshake."""
    try:
        body = json.loads(error.response.body or b"")
        return f"{body['name']}: {body['message']}"
    except (ValueError, KeyError, TypeError):
        return str(error)


def proxy_reason(proxy: str | Literal[True] | None, error: Exception) -> str:
    """In one line: what cannot be used, and where it was read."""
    if isinstance(proxy, str):
        return f"proxy: {error}; expected http://host:port"
    names = [name for name in sorted(os.environ) if name.lower() in _PROXY_VARIABLES]
    where = ", ".join(names) or "the system's proxy settings"
    return f"{where}: {error}; expected http://host:port (proxy=None goes directly)"
