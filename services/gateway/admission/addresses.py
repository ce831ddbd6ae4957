"""Where a client comes from, also behind proxies, and what one address may have. Pure."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.common.resilience import TokenBucket

# Addresses remembered at a time; the least recently seen are forgotten.
_REMEMBERED = 10_000
_IPV6_PREFIX = 64

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """Reads the client's address from what trusted proxies say of it.

    Args:
        networks: of the proxies, as addresses or CIDRs.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(one) for one in networks]

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """The client's address, by which its limits are counted.

        `forwarded` are the values of `X-Forwarded-For`, in order. From the right each name is
        believed as long as whoever said it is a trusted proxy: what stands further to the left
        anybody may have written. An IPv6 client counts as its /64, which is what one is given.
        """
        address = _parsed(peer)
        if address is None:
            return peer
        named = [name for value in forwarded for name in value.split(",")]
        while named and self.trusts(address):
            further = _parsed(named.pop())
            if further is None:
                break
            address = further
        if isinstance(address, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
        return str(address)

    def place(self, peer: str) -> str:
        """Under which address a connection is counted whose requests are not known yet.

        Empty for a trusted proxy: it is not one client.
        """
        address = _parsed(peer)
        return "" if address is not None and self.trusts(address) else self.client(peer, ())

    def trusts(self, address: _Address) -> bool:
        """Whether this is a proxy whose word is taken."""
        return any(address in network for network in self._networks)


def _parsed(text: str) -> _Address | None:
    """An address as proxies write it: bare, with a port, or in brackets."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


@dataclass(slots=True, eq=False)
class Pass:
    """A connection's places, from its handshake until `release`."""

    _door: Door
    _address: str
    _keyless: bool
    _left: bool = False

    def keyed(self) -> None:
        """A valid key came: the place of those without one is free again."""
        if self._keyless:
            self._keyless = False
            self._door.keyless -= 1
            less(self._door.keyless_by, self._address)

    def release(self) -> None:
        """Give everything back."""
        if not self._left:
            self._left = True
            self.keyed()
            less(self._door.by_address, self._address)


@dataclass(eq=False)
class Door:
    """WebSockets that are open: by address, and those without a valid key apart."""

    _most: int  # of one address; 0 is unlimited
    _keyless: int  # without a key, of all addresses together
    _keyless_most: int  # without a key, of one address
    keyless: int = 0
    by_address: Counter[str] = field(default_factory=Counter)
    keyless_by: Counter[str] = field(default_factory=Counter)

    def acquire(self, address: str, *, keyless: bool) -> Pass | str:
        """Let one in; or why not: `address` or `keyless`."""
        if self._most and self.by_address[address] >= self._most:
            return "address"
        if keyless and (
            self.keyless >= self._keyless or self.keyless_by[address] >= self._keyless_most
        ):
            return "keyless"
        self.by_address[address] += 1
        if keyless:
            self.keyless += 1
            self.keyless_by[address] += 1
        return Pass(self, address, keyless)


def less[K](counts: Counter[K], holder: K) -> None:
    """Count one less of a holder's, who is forgotten with the last one."""
    counts[holder] -= 1
    if counts[holder] <= 0:
        del counts[holder]


class Guessing(Exception):
    """Too many wrong keys came from an address."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong keys came from this address")
        self.wait_s = wait_s  # until one from there is looked at again


class KeyGuesses:
    """Slows down whoever tries keys: after wrong ones from an address, none is looked at there.

    A key that was right from there before is looked at all the same, so that others behind the
    same address are not shut out by a neighbour's guesses.

    Args:
        per_minute: wrong keys that an address may give, at once or in a minute; 0 is unlimited.
        clock: seconds, does not go back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._wrong: OrderedDict[str, TokenBucket] = OrderedDict()
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def wait(self, address: str, digest: bytes) -> float:
        """Seconds until a key from this address is looked at again; 0.0: look at it."""
        bucket = self._wrong.get(address)
        if bucket is None or (address, digest) in self._right:
            return 0.0
        return bucket.wait(self._clock())

    def judged(self, address: str, digest: bytes, *, right: bool) -> None:
        """It was looked at."""
        if not self._per_minute:
            return
        if right:
            _remember(self._right, (address, digest), None)
            return
        now = self._clock()
        bucket = self._wrong.get(address)
        if bucket is None:
            bucket = TokenBucket(self._per_minute / 60, max(1.0, self._per_minute), now)
        bucket.charge(now, 1.0)
        _remember(self._wrong, address, bucket)


def _remember[K, V](held: OrderedDict[K, V], key: K, value: V) -> None:
    held[key] = value
    held.move_to_end(key)
    if len(held) > _REMEMBERED:
        held.popitem(last=False)
