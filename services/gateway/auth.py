"""API keys: held as digests, compared in constant time. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

_HASHED = "sha256:"


class KeyRing:
    """The keys that are accepted.

    Args:
        keys: each a key, or `sha256:` and the hex digest of one. None at all: everyone is let in.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [
            bytes.fromhex(key.removeprefix(_HASHED)) if key.startswith(_HASHED) else _digest(key)
            for key in keys
        ]

    @property
    def open(self) -> bool:
        return not self._digests

    def accepts(self, key: str) -> bool:
        """Whether this key is one of them; takes as long for a wrong one as for a right one."""
        offered = _digest(key)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, offered)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def offered_key(headers: Mapping[str, str], query: str) -> str | None:
    """The key in a request: `X-API-Key`, `Authorization: Bearer`, or `?api_key=`."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    found = parse_qs(query).get("api_key")
    return found[0] if found else None
