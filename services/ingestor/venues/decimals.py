"""Prices and sizes as venues write them: plain digits with an optional fraction. Pure."""

from __future__ import annotations

import re

from services.ingestor.venues.base import MalformedFrame

_is_decimal = re.compile(r"\d+(?:\.\d+)?", re.ASCII).fullmatch


def decimal_text(text: object) -> str:
    """`text` itself.

    Raises:
        MalformedFrame: it is not a decimal number's text; signs and exponents are not either.
    """
    if not isinstance(text, str) or _is_decimal(text) is None:
        raise MalformedFrame("bad_decimal", repr(text))
    return text
