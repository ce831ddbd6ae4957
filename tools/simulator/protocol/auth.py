"""Signed subscribe messages: HMAC-SHA256 over `timestamp + GET + /users/self/verify`. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

_VERIFY = "GET/users/self/verify"
_FIELDS = ("key", "passphrase", "timestamp", "signature")
_MAX_SKEW_S = 30


class AuthFailed(Exception):
    """`reason` is what the venue answers."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key of the simulated exchange. `secret` is base64, as the venue issues it.

    The defaults are public and open nothing but a simulation.

    Raises:
        ValueError: `secret` is not base64.
    """

    key: str = "simulated-key"
    secret: str = field(default="c2ltdWxhdGVkLXNlY3JldA==", repr=False)
    passphrase: str = field(default="simulated-passphrase", repr=False)

    def __post_init__(self) -> None:
        base64.b64decode(self.secret, validate=True)

    def sign(self, timestamp: str) -> str:
        """The signature a client sends with this timestamp (Unix seconds as text)."""
        digest = hmac.digest(
            base64.b64decode(self.secret), (timestamp + _VERIFY).encode(), hashlib.sha256
        )
        return base64.b64encode(digest).decode()

    def signed_fields(self, timestamp: str) -> dict[str, str]:
        return {
            "key": self.key,
            "passphrase": self.passphrase,
            "timestamp": timestamp,
            "signature": self.sign(timestamp),
        }

    def verify(self, message: Mapping[str, object], now_s: float) -> bool:
        """False when the message is not signed at all, True when its signature holds.

        Raises:
            AuthFailed: it is signed, but not rightly.
        """
        given = {name: message.get(name) for name in _FIELDS}
        if not any(given.values()):
            return False
        timestamp = str(given["timestamp"] or "")
        try:
            skew = abs(float(timestamp) - now_s)
        except ValueError:
            raise AuthFailed("invalid timestamp") from None
        if given["key"] != self.key:
            raise AuthFailed("invalid api key")
        if not skew <= _MAX_SKEW_S:
            raise AuthFailed("request timestamp expired")
        if given["passphrase"] != self.passphrase:
            raise AuthFailed("invalid passphrase")
        signature = str(given["signature"] or "").encode()
        if not hmac.compare_digest(signature, self.sign(timestamp).encode()):
            raise AuthFailed("invalid signature")
        return True
