"""Which texts are prices and sizes, as the platform reads them. Pure.

Plain digits, rarely with an exponent (`5.1e-7`); no sign, and no number of absurd length.
"""

from __future__ import annotations

import re
from decimal import Decimal

_is_decimal = re.compile(r"[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?").fullmatch


def to_decimal(text: str) -> Decimal:
    """The value of `text`, exactly.

    Raises:
        ValueError: it is no decimal number.
    """
    if _is_decimal(text) is None:
        raise ValueError(f"not a decimal number: {text[:80]!r}")
    return Decimal(text)
