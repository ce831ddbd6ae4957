"""Which errors the platform may log while it is done to it what a plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# Event by event, why it is right to be said.
_EXPECTED: dict[str, str] = {}


def unexpected(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """The errors that nobody should have had to log."""
    found = Counter(
        str({name: value for name, value in sorted(error.items()) if name != "timestamp"})
        for error in errors
        if error.get("event") not in _EXPECTED
    )
    return [f"logged {count} times: {told[:600]}" for told, count in found.items()]
