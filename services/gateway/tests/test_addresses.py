"""Where a client comes from, what one address may have, and how fast it may guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.admission.addresses import Door, KeyGuesses, Pass, Proxies
from services.gateway.admission.http_limits import HttpLimits
from services.gateway.testing import Bench, bench, eventually, small_settings

PROXIES = Proxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        # Nobody's word counts but a trusted proxy's.
        ("198.51.100.1", ["203.0.113.5"], "198.51.100.1"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.5"], "203.0.113.5"),
        ("10.1.2.3", ["203.0.113.5:4711"], "203.0.113.5"),
        # What stands left of the last untrusted one anybody may have written.
        ("10.1.2.3", ["6.6.6.6, 203.0.113.5"], "203.0.113.5"),
        ("10.1.2.3", ["6.6.6.6", "203.0.113.5, 192.0.2.7"], "203.0.113.5"),
        ("10.1.2.3", ["203.0.113.5, nonsense"], "10.1.2.3"),
        ("10.1.2.3", ["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
        ("::ffff:10.1.2.3", ["203.0.113.5"], "203.0.113.5"),
        ("fd00::1", ["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", [], "2001:db8:1:2::/64"),
        ("", [], ""),
    ],
)
def test_a_client_is_who_trusted_proxies_say(peer: str, forwarded: list[str], client: str) -> None:
    assert PROXIES.client(peer, forwarded) == client


def test_a_proxy_has_no_place_of_its_own() -> None:
    assert PROXIES.place("10.1.2.3") == ""
    assert PROXIES.place("198.51.100.1") == "198.51.100.1"


def test_a_network_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        small_settings(trusted_proxies="10.0.0.0/8,nonsense")
    assert small_settings(trusted_proxies="10.0.0.0/8, ::1").trusted_proxies == (
        "10.0.0.0/8",
        "::1",
    )


steps = st.lists(st.tuples(st.sampled_from(["enter", "enter", "key", "leave"]), st.integers(0, 3)))


@given(steps, st.integers(0, 4), st.integers(1, 5), st.integers(1, 3))
def test_places_are_never_more_than_allowed_and_all_come_back(
    done: list[tuple[str, int]], most: int, keyless: int, keyless_most: int
) -> None:
    door = Door(most, keyless, keyless_most)
    open_: list[tuple[str, Pass, bool]] = []
    for step, number in done:
        address = str(number)
        if step == "enter":
            entry = door.acquire(address, keyless=number % 2 == 0)
            if isinstance(entry, Pass):
                open_.append((address, entry, number % 2 == 0))
        elif open_:
            index = number % len(open_)
            address, entry, _ = open_[index]
            if step == "key":
                entry.keyed()
                open_[index] = (address, entry, False)
            else:
                entry.release()
                entry.release()
                del open_[index]
        by_address = Counter(address for address, _, _ in open_)
        waiting = Counter(address for address, _, without in open_ if without)
        assert door.by_address == by_address
        assert door.keyless_by == waiting
        assert door.keyless == waiting.total() <= keyless
        assert not most or max(by_address.values(), default=0) <= most
        assert max(waiting.values(), default=0) <= keyless_most


def test_wrong_keys_are_looked_at_ever_more_slowly_and_known_right_ones_at_once() -> None:
    now = 0.0
    guesses = KeyGuesses(6, lambda: now)
    guesses.judged("a", b"right", right=True)
    for number in range(6):
        assert guesses.wait("a", b"%d" % number) == 0
        guesses.judged("a", b"%d" % number, right=False)
    assert guesses.wait("a", b"other") == pytest.approx(10)
    assert guesses.wait("a", b"right") == 0
    assert guesses.wait("b", b"other") == 0
    now = 10.0
    assert guesses.wait("a", b"other") == 0
    never = KeyGuesses(0, lambda: now)
    for _ in range(1000):
        never.judged("a", b"x", right=False)
    assert never.wait("a", b"x") == 0


def test_addresses_that_come_and_go_are_forgotten() -> None:
    guesses = KeyGuesses(6, lambda: 0.0)
    for number in range(30_000):
        guesses.judged(str(number), b"x", right=number % 2 == 0)
    assert len(guesses._wrong) <= 10_000
    assert len(guesses._right) <= 10_000


def test_one_address_does_not_take_all_places_of_http() -> None:
    limits = HttpLimits(4, 1000, 20, per_address=2)
    assert [limits.acquire("a") for _ in range(3)] == ["", "", "address"]
    assert [limits.acquire(""), limits.acquire("b"), limits.acquire("c")] == ["", "", "connections"]
    limits.release("a")
    assert limits.acquire("a") == ""
    assert limits.open == 4


# ---------------------------------------------------------------------- over sockets


@pytest.fixture
async def keyed() -> AsyncIterator[Bench]:
    async with bench(
        MemoryBroker(),
        auth_api_keys="right;name=desk",
        ws_max_connections=8,
        key_failures_per_minute=6,
        trusted_proxies="127.0.0.1",
    ) as running:
        yield running


def _from(address: str, key: str | None = None) -> dict[str, Any]:
    headers = {"X-Forwarded-For": address}
    return {"additional_headers": headers if key is None else {**headers, "X-API-Key": key}}


async def test_sockets_without_a_key_leave_places_for_those_with_one(keyed: Bench) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(4):
            silent = await stack.enter_async_context(keyed.client(**_from("203.0.113.1")))
        with pytest.raises(InvalidStatus) as refused:
            await stack.enter_async_context(keyed.client(**_from("203.0.113.2")))
        assert refused.value.response.status_code == 503
        assert b"2005" in (refused.value.response.body or b"")
        for _ in range(3):
            one = await stack.enter_async_context(keyed.client(**_from("203.0.113.3", "right")))
            assert (await one.of("welcome"))["auth"] == "ok"
        # A valid key gives the place of one without back.
        await silent.send(type="auth", api_key="right")
        await silent.of("auth")
        await stack.enter_async_context(keyed.client(**_from("203.0.113.2")))
    await eventually(lambda: not keyed.gateway.sessions)
    assert keyed.gateway.parts.door.keyless == 0
    assert not keyed.gateway.parts.door.by_address


async def test_one_address_has_so_many_sockets() -> None:
    async with (
        bench(
            MemoryBroker(), ws_max_connections_per_address=2, trusted_proxies="127.0.0.0/8"
        ) as gateway,
        gateway.client(**_from("203.0.113.1")),
        gateway.client(**_from("203.0.113.1")) as second,
    ):
        with pytest.raises(InvalidStatus) as refused:
            await gateway.client(**_from("203.0.113.1")).__aenter__()
        assert refused.value.response.status_code == 503
        async with gateway.client(**_from("203.0.113.2")) as other:
            await other.of("welcome")
        await second.socket.close()
        await eventually(lambda: len(gateway.gateway.sessions) == 1)
        async with gateway.client(**_from("203.0.113.1")) as again:
            await again.of("welcome")


async def test_guesses_are_slowed_on_every_way_in_for_their_address_only(keyed: Bench) -> None:
    async with keyed.client(**_from("203.0.113.9", "right")) as before:
        await before.of("welcome")
    async with httpx.AsyncClient(base_url=keyed.http) as http:

        async def asked(address: str, key: str) -> httpx.Response:
            headers = {"X-Forwarded-For": address, "X-API-Key": key}
            return await http.get("/v1/products", headers=headers)

        answers = [(await asked("203.0.113.9", f"guess-{n}")).status_code for n in range(8)]
        assert answers == [401] * 6 + [429] * 2
        assert int((await asked("203.0.113.9", "guess")).headers["retry-after"]) > 5
        with pytest.raises(InvalidStatus) as refused:
            await keyed.client(**_from("203.0.113.9", "guess")).__aenter__()
        assert refused.value.response.status_code == 429
        async with keyed.client(**_from("203.0.113.9")) as client:
            await client.send(type="auth", api_key="guess")
            limit = await client.of("rate_limit")
            assert limit["scope"] == "connection"
            assert limit["retry_after_ms"] > 5000
        metrics = keyed.gateway.metrics
        assert metrics.http_refused.labels("key_guesses")._value.get() == 4
        assert metrics.rate_limited.labels("keys")._value.get() == 1
        # Who was right from there before still is; and elsewhere nothing has happened.
        assert (await asked("203.0.113.9", "right")).status_code == 200
        assert (await asked("203.0.113.10", "guess")).status_code == 401
