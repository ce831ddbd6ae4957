"""Malformed messages of Coinbase are refused with a reason, whatever they are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.subjects import StreamKey
from services.common.wire import Fields
from services.normalizer.tests.test_coinbase import (
    BTC,
    MAPPER,
    TS_RECV,
    body_of,
    fields,
    state,
)
from services.normalizer.venues.mapping import Unmappable

BAD = [
    ("ticker", b"", "bad_json"),
    ("ticker", b'{"type":"ticker"', "bad_json"),
    ("ticker", b"\xff", "bad_json"),
    ("ticker", b'{"type":"ticker","x":' + b"[" * 100_000, "bad_json"),
    ("ticker", b"[]", "bad_field"),
    ("ticker", b"null", "bad_field"),
    ("ticker", body_of("ticker", sequence="10"), "bad_field"),
    ("ticker", body_of("ticker", sequence=10**30), "bad_field"),
    ("ticker", body_of("ticker", price=100.5), "bad_field"),
    ("ticker", body_of("ticker", price="1e500"), "bad_decimal"),
    ("ticker", body_of("ticker", type="heartbeat"), "unexpected_type"),
    ("ticker", body_of("ticker", product_id="ETH-USD"), "wrong_product"),
    ("trades", body_of("trades", side="bid"), "bad_side"),
    ("trades", body_of("trades", price=""), "bad_decimal"),
    ("trades", body_of("trades", size="0.5\n"), "bad_decimal"),
    ("trades", body_of("trades", trade_id=None), "bad_field"),
    ("trades", body_of("trades", trade_id=True), "bad_field"),
    ("book", {"type": "l2update", "product_id": BTC, "changes": [["buy", "1"]]}, "bad_field"),
    (
        "book",
        {"type": "l2update", "product_id": BTC, "changes": [["buy", "1", "2"], ["bid", "1", "2"]]},
        "bad_side",
    ),
    (
        "book",
        {"type": "l2update", "product_id": BTC, "changes": [["buy", "1", "0.-10000"]]},
        "bad_decimal",
    ),
    (
        # Two halves of one number must not pass for two numbers.
        "book",
        {"type": "l2update", "product_id": BTC, "changes": [["buy", "1 2", "3"]]},
        "bad_decimal",
    ),
    ("full", {"type": "open"}, "unknown_channel"),
]


@pytest.mark.parametrize(("channel", "body", "code"), BAD)
def test_malformed_messages_are_refused_with_a_reason(
    channel: str, body: object, code: str
) -> None:
    with pytest.raises(Unmappable) as refusal:
        fields(channel, body)
    assert refusal.value.code == code
    assert refusal.value.detail


@given(st.sampled_from(["ticker", "trades", "book"]), st.binary(max_size=200))
def test_no_bytes_do_worse_than_being_refused(channel: str, body: bytes) -> None:
    for read in (fields, state):
        with pytest.raises(Unmappable):
            read(channel, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.sampled_from(["ticker", "trades"]), st.data())
def test_no_odd_field_does_worse_than_being_refused(channel: str, data: st.DataObject) -> None:
    body = body_of(channel)
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(JSON)
    try:
        mapped = fields(channel, body)
    except Unmappable:
        return
    assert msgspec.json.decode(msgspec.json.encode(mapped.fields), type=Fields) == mapped.fields


def test_a_number_that_nobody_can_hold_costs_its_own_field() -> None:
    text = msgspec.json.encode(body_of("ticker", best_ask=None)).replace(
        b'"best_ask":null', b'"best_ask":1e400'
    )
    mapped = MAPPER.fields(StreamKey("coinbase", "ticker", BTC), text, TS_RECV)
    assert mapped.fields.best_ask is None
    assert [refusal.code for refusal in mapped.refused] == ["bad_decimal"]


@pytest.mark.parametrize("row", [b"1e400", b'["1",1e400]'])
def test_a_row_with_a_number_that_nobody_can_hold_costs_that_row(row: bytes) -> None:
    body = b'{"bids":[["10","1"],%b],"asks":[["11","1"]]}' % row
    mapped = state("book", body)
    assert mapped.state == {"bids": [["10", "1"]], "asks": [["11", "1"]]}
    assert [refusal.code for refusal in mapped.refused] == ["bad_row"]
