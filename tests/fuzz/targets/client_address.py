"""What proxies say of where a client comes from: an address, whatever they say.

The first line is the peer, the others are values of `X-Forwarded-For`.
"""

from __future__ import annotations

import ipaddress

from services.gateway.admission.addresses import Proxies

_PROXIES = Proxies(["10.0.0.0/8", "fd00::/8"])


def check(data: bytes) -> None:
    peer, *forwarded = data.decode("latin-1").split("\n")
    found = _PROXIES.client(peer, forwarded)
    known = _PROXIES.client("10.0.0.1", forwarded)
    for client in (known,) if found == peer else (known, found):
        network = ipaddress.ip_network(client)
        assert network.version == 4 or network.prefixlen == 64, "one is given a /64"
        # Whoever it is, it is counted under one name.
        bare = str(network.network_address)
        assert _PROXIES.client("10.0.0.1", [bare]) == client
    # A stranger's word is not taken.
    assert _PROXIES.client("192.0.2.7", forwarded) == "192.0.2.7"
    _PROXIES.place(peer)


SEEDS = (
    b"10.0.0.1\n203.0.113.5, 10.2.3.4",
    b"10.0.0.1\n[2001:db8::1]:443\n10.9.9.9:80",
    b"fd00::1\n::ffff:203.0.113.5",
    b"\nfe80::1%eth0",
    b"203.0.113.9\n198.51.100.1",
)
