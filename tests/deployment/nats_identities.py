"""An operator of NATS with one account, made here: credentials files as `nsc` writes them."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# The first byte of a name or seed: what it is of.
_OPERATOR, _ACCOUNT, _USER, _SEED = (number << 3 for number in (14, 0, 20, 18))
# Nothing is limited but by permissions.
_LIMITS = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
_STORES = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
Permissions = Mapping[str, Sequence[str]]


class _Identity:
    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._key = Ed25519PrivateKey.generate()
        self.name = _text(bytes((kind,)) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        head = bytes((_SEED | self._kind >> 5, (self._kind & 31) << 3))
        return _text(head + self._key.private_bytes_raw())

    def says(self, of: _Identity, name: str, claims: dict[str, Any]) -> str:
        """A JWT about another."""
        body = {"iss": self.name, "sub": of.name, "name": name, "iat": 1, "jti": name}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {**claims, "version": 2}})
        text = b".".join(_url(json.dumps(part).encode()) for part in parts)
        return (text + b"." + _url(self._key.sign(text))).decode()


def _text(raw: bytes) -> str:
    """In base32, behind it a checksum."""
    return (
        base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().strip("=")
    )


def _url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


class Operator:
    """`config` is what a server has to know of them."""

    def __init__(self) -> None:
        operator, system = _Identity(_OPERATOR), _Identity(_ACCOUNT)
        self._account = _Identity(_ACCOUNT)
        # JetStream wants one, and must not be limited in the other.
        plain = {"type": "account", "limits": {**_LIMITS, "wildcards": True}}
        stores = {"type": "account", "limits": {**_LIMITS, **_STORES, "wildcards": True}}
        claims = {"type": "operator", "system_account": system.name}
        self.config = (
            f"operator: {operator.says(operator, 'operator', claims)}\n"
            f"system_account: {system.name}\nresolver: MEMORY\nresolver_preload: {{\n"
            f"  {system.name}: {operator.says(system, 'system', plain)}\n"
            f"  {self._account.name}: {operator.says(self._account, 'market-data', stores)}\n}}\n"
        )

    def credentials(self, user: str, permissions: Permissions) -> str:
        """A user's file."""
        identity = _Identity(_USER)
        allowed = {
            "pub": {"allow": list(permissions["publish"])},
            "sub": {"allow": list(permissions["subscribe"])},
        }
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, **allowed}
        return (
            f"-----BEGIN NATS USER JWT-----\n{self._account.says(identity, user, claims)}\n"
            "------END NATS USER JWT------\n\n************************* IMPORTANT *********\n"
            f"-----BEGIN USER NKEY SEED-----\n{identity.seed}\n------END USER NKEY SEED------\n"
        )


def permissions_of(conf: Path) -> Permissions:
    """What stands in a file of helm/nats/permissions."""
    found = re.findall(r"(publish|subscribe): \[(.*?)\]", conf.read_text(), re.DOTALL)
    return {kind: re.findall(r'"([^"]+)"', subjects) for kind, subjects in found}
