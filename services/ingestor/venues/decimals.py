"""Prices and sizes of frames, read as all services read them. Pure."""

from __future__ import annotations

from decimal import Decimal

from services.common.domain.decimals import BadDecimal, is_decimal, to_decimal
from services.ingestor.venues.base import MalformedFrame


def decimal_text(text: object) -> str:
    """`text` itself.

    Raises:
        MalformedFrame: it is not a decimal number's text.
    """
    if not isinstance(text, str) or not is_decimal(text):
        raise MalformedFrame("bad_decimal", repr(text)[:80])
    return text


def decimal_value(text: object) -> Decimal:
    """What `text` says.

    Raises:
        MalformedFrame: it is not a decimal number's text.
    """
    try:
        return to_decimal(text)
    except BadDecimal as error:
        raise MalformedFrame("bad_decimal", repr(text)[:80]) from error
