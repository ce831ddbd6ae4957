"""The one reader of prices and sizes: which texts are decimal numbers, and their value. Pure.

Venues write plain digits (`84737.58`), and small numbers now and then with an exponent (`5.1e-7`).
Nobody rewrites what a venue sent: these functions tell whether a text can be read and what it is
worth, so that all services and both SDKs agree (`market_data_conformance/decimals.json`).

Signs are refused, since no price and no size has one. So are numbers that no market has: an
exponent of more than two digits would make a few bytes gigabytes where somebody writes it out, and
more than `MAX_DIGITS` digits before or behind the point are an attack or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal

# Digits before the point, and behind it, at most.
MAX_DIGITS = 40


def _grammar(possessive: str) -> str:
    digits = f"[0-9]{{1,{MAX_DIGITS}}}{possessive}"
    exponent = f"[eE][+-]?{possessive}[0-9]{{1,2}}{possessive}"
    return rf"{digits}(?:\.{digits})?{possessive}(?:{exponent})?{possessive}"


# For JSON Schema and for other engines.
PATTERN = _grammar("")
# The same for Python, never going back: a search over many texts then takes half of the time.
POSSESSIVE_PATTERN = _grammar("+")

# Exact for sums and differences of numbers within the bounds: the default context rounds at 28.
EXACT = Context(prec=4 * MAX_DIGITS + 2 * 99)

_is_decimal = re.compile(POSSESSIVE_PATTERN).fullmatch
# One search over many texts, each with a space behind it, costs a fifth of one search for each.
_are_decimals = re.compile(f"(?:{POSSESSIVE_PATTERN} )*+").fullmatch


class BadDecimal(ValueError):
    """A text that is no decimal number within the bounds."""

    def __init__(self, text: object) -> None:
        self.text = text
        super().__init__(f"not a decimal number: {str(text)[:80]!r}")


def is_decimal(text: object) -> bool:
    """Whether `text` is the text of a decimal number within the bounds."""
    return isinstance(text, str) and _is_decimal(text) is not None


def are_decimals(texts: Sequence[str]) -> bool:
    """Whether all of `texts` are; much faster than asking for each."""
    try:
        joined = " ".join(texts) + " "
    except TypeError:
        return False
    # The count of spaces says that no text holds one itself.
    return not texts or (_are_decimals(joined) is not None and joined.count(" ") == len(texts))


def first_bad(texts: Iterable[object]) -> object:
    """The first of `texts` that is no decimal number; None when all are."""
    return next((text for text in texts if not is_decimal(text)), None)


def to_decimal(text: object) -> Decimal:
    """The value of `text`, exactly.

    Raises:
        BadDecimal: it is no decimal number within the bounds.
    """
    if not isinstance(text, str) or _is_decimal(text) is None:
        raise BadDecimal(text)
    return Decimal(text)


def plain(value: Decimal) -> str:
    """`value` without exponent and without zeros at the end: for numbers we compute ourselves."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
