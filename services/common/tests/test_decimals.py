"""The one reader of prices and sizes, by the vectors that the SDKs are held to as well."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data_conformance.script import DECIMALS

from services.common.domain import decimals
from services.common.domain.decimals import BadDecimal, are_decimals, is_decimal, to_decimal

VECTORS = json.loads(DECIMALS.read_text())
VALID: list[str] = [text for texts in VECTORS["ascending"] for text in texts]
INVALID: list[str] = VECTORS["invalid"]


@pytest.mark.parametrize("text", VALID)
def test_a_number_is_read_as_exactly_what_it_says(text: str) -> None:
    assert is_decimal(text)
    assert are_decimals([text])
    assert to_decimal(text) == Decimal(text)


@pytest.mark.parametrize("text", INVALID)
def test_what_is_no_number_of_a_market_is_refused_by_every_way_to_ask(text: str) -> None:
    assert not is_decimal(text)
    assert not are_decimals([text])
    assert not are_decimals(["1", text, "2"])
    assert decimals.first_bad(["1", text, "2"]) == text
    assert re.fullmatch(decimals.PATTERN, text) is None
    with pytest.raises(BadDecimal):
        to_decimal(text)


@pytest.mark.parametrize("value", [None, 1, 1.5, b"1", ["1"]])
def test_what_is_no_text_is_no_number(value: object) -> None:
    assert not is_decimal(value)
    assert not are_decimals([value])  # type: ignore[list-item]  # what a decoder may hand over
    with pytest.raises(BadDecimal):
        to_decimal(value)


def test_vectors_stand_in_order() -> None:
    values = [[to_decimal(text) for text in texts] for texts in VECTORS["ascending"]]
    assert all(len(set(same)) == 1 for same in values)
    assert all(less[0] < more[0] for less, more in pairwise(values))


@given(st.text(alphabet="0123456789.eE+- _x\n１", max_size=12))
def test_both_patterns_and_the_search_over_many_agree(text: str) -> None:
    one = is_decimal(text)
    assert (re.fullmatch(decimals.PATTERN, text) is not None) is one
    assert are_decimals([text, "1"]) is one
    assert are_decimals(["1", text]) is one
    if one:
        assert len(f"{to_decimal(text):f}") < 200


@given(st.decimals(min_value=0, max_value=10**15, places=12))
def test_plain_digits_say_the_same_value(value: Decimal) -> None:
    text = decimals.plain(value)
    assert Decimal(text) == value
    assert "E" not in text.upper()


def test_what_is_no_number_is_named_and_a_long_text_cut() -> None:
    with pytest.raises(BadDecimal) as caught:
        to_decimal("x" * 200)
    assert caught.value.text == "x" * 200
    assert str(caught.value) == f"not a decimal number: '{'x' * 80}'"


def test_there_is_no_first_bad_one_where_all_are_numbers() -> None:
    assert decimals.first_bad(["1", "2.5"]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.500", "1.5"),
        ("2.0", "2"),
        ("100.00", "100"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("5.10E-7", "0.00000051"),
        ("0.0", "0"),
    ],
)
def test_a_computed_number_has_neither_exponent_nor_zeros_at_its_end(value: str, text: str) -> None:
    assert decimals.plain(Decimal(value)) == text
