"""RFC 3339 times as integer microseconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

# Years that a time can have here. Others are a broken clock (year 0001 has been seen where a venue
# holds no time), and would put a record thousands of years away from those beside it.
_FIRST_YEAR = "2009"
_AFTER_YEAR = "2200"

_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_FRACTION = re.compile(r"\.\d{1,9}Z", re.ASCII)


def micros(text: object) -> int | None:
    """Microseconds since the Unix epoch of an RFC 3339 UTC time with 0 to 9 fraction digits.

    Digits below a microsecond are cut off. None when there is no usable time: absent, no text,
    malformed, not in UTC (`Z`), or not of the years 2009 to 2199.
    """
    if not isinstance(text, str):
        return None
    base = _second_micros(text[:19])
    if base is None:
        return None
    if len(text) == 27 and text[26] == "Z" and text[19] == ".":
        # Six digits, as nearly always; half as long as what follows.
        digits = text[20:26]
        return base + int(digits) if digits.isascii() and digits.isdigit() else None
    if len(text) == 20 and text[19] == "Z":
        return base
    if _FRACTION.fullmatch(text, 19) is None:
        return None
    return base + int(text[20:26].rstrip("Z").ljust(6, "0"))


@lru_cache(maxsize=1024)
def _second_micros(text: str) -> int | None:
    """Microseconds of `2026-07-07T22:58:17`; consecutive messages share it."""
    if not _FIRST_YEAR <= text < _AFTER_YEAR or _SECOND.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000
