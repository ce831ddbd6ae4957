"""API keys: held as digests, compared in constant time, with what each of them may do. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import parse_qs

from services.gateway.admission.addresses import Pass, less

_HASHED = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}")
_PATTERN = re.compile(r"[A-Za-z0-9_*?.-]+")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the holder of a key may do. None: no limit but the gateway's own."""

    name: str  # how the key is called where it must not be shown itself
    # Patterns such as `BTC-USD` or `ETH-*`; none at all: every product.
    products: tuple[str, ...] = ()
    connections: int | None = None  # WebSockets at a time at one gateway
    subscriptions: int | None = None  # streams of one connection
    commands: float | None = None  # commands a second of one connection

    def entitled(self, product: str) -> bool:
        """Whether this product may be asked for."""
        return not self.products or any(fnmatchcase(product, one) for one in self.products)


EVERYONE = Grant("everyone")


class KeyRing:
    """The keys that are accepted.

    Args:
        keys: each a key, or `sha256:` and the hex digest of one, and after that any of
            `;name=`, `;products=A|B`, `;connections=`, `;subscriptions=`, `;commands=`.
            None at all: everyone is let in.

    Raises:
        ValueError: one of them is malformed; the message does not contain it.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._grants = [_parse(number, key) for number, key in enumerate(keys, start=1)]

    @property
    def open(self) -> bool:
        return not self._grants

    def grant(self, key: str) -> Grant | None:
        """What this key allows; None: it is none of them.

        Takes as long for a wrong one as for a right one.
        """
        offered = digest_of(key)
        found: Grant | None = None
        for digest, grant in self._grants:
            if hmac.compare_digest(digest, offered):
                found = grant
        return found


class Places:
    """Connections that are open, by key."""

    def __init__(self) -> None:
        self._taken: Counter[Grant] = Counter()

    def acquire(self, grant: Grant) -> bool:
        """Take a place; False: all that the key allows are taken."""
        if grant.connections is not None and self._taken[grant] >= grant.connections:
            return False
        self._taken[grant] += 1
        return True

    def release(self, grant: Grant) -> None:
        less(self._taken, grant)


@dataclass(slots=True, eq=False)
class Seat:
    """One connection's place, from the moment its key is known until `release`."""

    _places: Places
    address: str = ""  # where the client comes from
    grant: Grant | None = None  # what it may do; None while no valid key came
    door_pass: Pass | None = None  # its places by address, where those are counted

    def acquire(self, grant: Grant) -> bool:
        """Take a place under this grant, once; False: the key has no place left."""
        assert self.grant is None
        if not self._places.acquire(grant):
            return False
        self.grant = grant
        if self.door_pass is not None:
            self.door_pass.keyed()
        return True

    def release(self) -> None:
        if self.door_pass is not None:
            self.door_pass.release()
        if self.grant is not None:
            self._places.release(self.grant)
            self.grant = None


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _parse(number: int, text: str) -> tuple[bytes, Grant]:
    key, *options = (part.strip() for part in text.split(";"))
    if not key:
        raise ValueError(f"key {number}: expected a key before ';'")
    if not key.startswith(_HASHED):
        digest = digest_of(key)
    elif _DIGEST.fullmatch(key):
        digest = bytes.fromhex(key.removeprefix(_HASHED))
    else:
        raise ValueError(f"key {number}: expected sha256: and 64 hex digits")
    grant = Grant(f"key-{number}")
    for option in options:
        grant = _with(grant, number, option)
    return digest, grant


def _with(grant: Grant, number: int, option: str) -> Grant:
    """The grant changed by one `name=value`."""
    name, _, value = option.partition("=")
    values = {field: getattr(grant, field) for field in Grant.__slots__}
    match name:
        case "name" if value:
            values["name"] = value
        case "products" if value and all(map(_PATTERN.fullmatch, value.split("|"))):
            values["products"] = tuple(value.split("|"))
        case "connections" | "subscriptions" if value.isdecimal() and int(value) > 0:
            values[name] = int(value)
        case "commands" if re.fullmatch(r"\d+(\.\d+)?", value) and float(value) > 0:
            values["commands"] = float(value)
        case _:
            raise ValueError(
                f"key {number}: expected name=, products=A|B, connections=, subscriptions= or "
                "commands= with a value"
            )
    return Grant(**values)


def offered_key(headers: Mapping[str, str], query: str) -> str | None:
    """The key in a request: `X-API-Key`, `Authorization: Bearer`, or `?api_key=`."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    found = parse_qs(query).get("api_key")
    return found[0] if found else None
