"""The venue's RFC 3339 texts of integer microseconds since the Unix epoch."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

SECOND = 1_000_000


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
