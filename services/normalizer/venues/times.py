"""RFC 3339 times of venues as integer microseconds. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_FRACTION = re.compile(r"\.\d{1,9}", re.ASCII)


@lru_cache(maxsize=1024)
def _second_micros(text: str) -> int | None:
    """Microseconds of `2026-07-07T22:58:17`; consecutive messages share it."""
    if _SECOND.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    seconds = int(moment.timestamp())
    # A venue has been seen to send year 0001 where it holds no time.
    return seconds * 1_000_000 if seconds > 0 else None


def micros(text: str | None) -> int | None:
    """Microseconds since the Unix epoch of an RFC 3339 UTC time with 0 to 9 fraction digits.

    Digits below a microsecond are cut off. None when there is no usable time: absent, malformed,
    not in UTC (`Z`), or before 1970.
    """
    if text is None or len(text) < 20 or text[-1] != "Z":
        return None
    base = _second_micros(text[:19])
    if base is None or len(text) == 20:
        return base
    if len(text) == 27 and text[19] == "." and text.isascii() and (digits := text[20:26]).isdigit():
        # Nearly always; half as long as what follows.
        return base + int(digits)
    fraction = text[19:-1]
    if _FRACTION.fullmatch(fraction) is None:
        return None
    return base + int(fraction[1:7].ljust(6, "0"))
