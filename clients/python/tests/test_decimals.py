"""Numbers are read as the platform reads them, by the vectors all readers share."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from market_data_conformance.script import DECIMALS
from market_data_fanout_client import Level, OrderBook
from market_data_fanout_client.book import to_decimal
from market_data_fanout_client.decode import fields

VECTORS: dict[str, Any] = json.loads(DECIMALS.read_text())


def test_texts_of_one_value_are_equal_and_values_ascend() -> None:
    values = [[to_decimal(text) for text in texts] for texts in VECTORS["ascending"]]
    assert all(len(set(same)) == 1 for same in values)
    assert all(less[0] < more[0] for less, more in pairwise(values))


@pytest.mark.parametrize("text", VECTORS["invalid"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a decimal number"):
        to_decimal(text)


def test_one_price_in_two_notations_is_one_level() -> None:
    book = OrderBook()
    book.replace(1, 1, [Level("5.1e-7", "150000"), Level("5e-7", "10000")], [Level("6e-7", "1")])
    assert book.best_bid == Level("5.1e-7", "150000")
    book.apply(1, 2, [("buy", "0.00000051", "0e-8"), ("buy", "5.0E-7", "1e4")])
    assert book.depth().bids == (Level("5.0E-7", "1e4"),)


def test_a_best_price_whose_size_the_venue_did_not_say_is_a_best_price() -> None:
    assert fields({"best_bid": {"price": "1"}}).best_bid == Level("1", None)
