"""Times: integer microseconds inside, the venue's RFC 3339 texts outside."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

SECOND = 1_000_000


def wall_us() -> int:
    """Now, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


@lru_cache(maxsize=64)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def iso6(us: int) -> str:
    """Six digits, as WebSocket messages have it."""
    second, part = divmod(us, SECOND)
    return f"{_second_text(second)}.{part:06d}Z"


def iso9(us: int) -> str:
    """Nine digits, as the REST book and ticker have it."""
    second, part = divmod(us, SECOND)
    return f"{_second_text(second)}.{part:06d}000Z"


def parse_iso(text: str) -> int:
    """Microseconds of an RFC 3339 time with zero to nine digits and `Z`.

    Raises:
        ValueError: it is not such a time.
    """
    main, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(main).replace(tzinfo=UTC).timestamp())
    return seconds * SECOND + (int(fraction[:6].ljust(6, "0")) if fraction else 0)
