from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tools.simulator.protocol.auth import Credentials
from tools.simulator.protocol.messages import Channel, Error, Subscriptions
from tools.simulator.protocol.subscriptions import ClientSubscriptions

NOW_S = 1_750_000_000.0
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")

json = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
odd_requests = st.dictionaries(
    st.sampled_from(
        ["type", "channels", "product_ids", "name", "signature", "key", "passphrase", "timestamp"]
    ),
    json | st.sampled_from(["subscribe", "unsubscribe"]) | st.just([{"name": "ticker"}]),
)
products = st.lists(st.sampled_from(PRODUCTS), min_size=1, max_size=3, unique=True)
channels = st.lists(
    st.one_of(
        st.sampled_from(Channel),
        st.fixed_dictionaries({"name": st.sampled_from(Channel), "product_ids": products}),
    ),
    min_size=1,
    max_size=3,
)
requests = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["subscribe", "subscribe", "unsubscribe"]),
        "channels": channels,
        "product_ids": products,
    }
)


def signed(request: dict[str, object]) -> bytes:
    return msgspec.json.encode({**request, **Credentials().signed_fields(str(NOW_S))})


@given(st.one_of(json, odd_requests))
def test_any_json_is_answered(message: object) -> None:
    subscriptions = ClientSubscriptions(PRODUCTS.__contains__, Credentials())
    answer = subscriptions.handle(msgspec.json.encode(message), NOW_S)
    assert isinstance(answer.reply, Error | Subscriptions)
    if isinstance(answer.reply, Error):
        assert not subscriptions.pairs()


@given(st.binary(max_size=30))
def test_any_bytes_are_answered(message: bytes) -> None:
    answer = ClientSubscriptions(PRODUCTS.__contains__, None).handle(message, NOW_S)
    assert isinstance(answer.reply, Error)


@given(st.lists(requests, max_size=8))
def test_added_minus_removed_is_what_is_held(steps: list[dict[str, object]]) -> None:
    subscriptions = ClientSubscriptions(PRODUCTS.__contains__, Credentials())
    held: set[tuple[str, str]] = set()
    for step in steps:
        answer = subscriptions.handle(signed(step), NOW_S)
        assert isinstance(answer.reply, Subscriptions)
        assert not held & set(answer.added)
        assert held >= set(answer.removed)
        held = (held | set(answer.added)) - set(answer.removed)
        assert held == set(subscriptions.pairs())
        named = sum(len(each.product_ids) or 1 for each in answer.reply.channels)
        assert named == len(held)


def test_a_signature_is_only_good_for_half_a_minute() -> None:
    request = msgspec.json.encode(
        {
            "type": "subscribe",
            "channels": ["full"],
            "product_ids": ["BTC-USD"],
            **Credentials().signed_fields(str(NOW_S - 31)),
        }
    )
    answer = ClientSubscriptions(PRODUCTS.__contains__, Credentials()).handle(request, NOW_S)
    assert answer.reply == Error("Authentication Failed", "request timestamp expired")
