"""RFC 3339 UTC times to microseconds, fast and tolerant: 0 to 9 fractional digits are in use."""

from __future__ import annotations

from datetime import UTC, datetime

# Years a market message can have; anything else is a broken clock (year 0001 has been seen).
_EARLIEST = "2009"
_LATEST = "2200"


class Rfc3339:
    """Parses with the last second cached, as consecutive messages mostly share it."""

    __slots__ = ("_base", "_second")

    def __init__(self) -> None:
        self._second = ""
        self._base = 0

    def micros(self, text: str | None) -> int:
        """Microseconds since the Unix epoch, or 0 when `text` is no sensible UTC time."""
        if text is None:
            return 0
        second = text[:19]
        if second != self._second:
            if not _EARLIEST <= second < _LATEST:
                return 0
            try:
                moment = datetime.strptime(second, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
            except ValueError:
                return 0
            self._base = int(moment.timestamp()) * 1_000_000
            self._second = second
        rest = text[19:]
        if rest == "Z":
            return self._base
        digits = rest[1:-1]
        if rest[:1] != "." or rest[-1] != "Z" or not digits.isdecimal():
            return 0
        return self._base + int(digits[:6].ljust(6, "0"))
