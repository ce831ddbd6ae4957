"""RFC 3339 UTC times to microseconds, fast and tolerant: 0 to 9 fractional digits are in use."""

from __future__ import annotations

from datetime import datetime

# Years a market message can have; anything else is a broken clock (year 0001 has been seen).
_EARLIEST = "2009"
_LATEST = "2200"


# Seconds kept parsed; streams and products are a few seconds apart at most.
_CACHED = 64


class Rfc3339:
    """Parses with the latest seconds cached, as consecutive messages mostly share them."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}

    def micros(self, text: str | None) -> int:
        """Microseconds since the Unix epoch, or 0 when `text` is no sensible UTC time."""
        if text is None:
            return 0
        base = self._seconds.get(text[:19]) or self._second(text[:19])
        if len(text) == 27 and text[19] == "." and text[26] == "Z" and base:
            # What the WebSocket sends: six digits.
            digits = text[20:26]
            return base + int(digits) if digits.isdecimal() else 0
        rest = text[19:]
        if rest == "Z" or not base:
            return base
        digits = rest[1:-1]
        if rest[:1] != "." or rest[-1] != "Z" or not digits.isdecimal():
            return 0
        return base + int(digits[:6].ljust(6, "0"))

    def _second(self, text: str) -> int:
        if not _EARLIEST <= text < _LATEST or text[10:11] != "T":
            return 0
        try:
            moment = datetime.fromisoformat(f"{text}+00:00")
        except ValueError:
            return 0
        if len(self._seconds) >= _CACHED:
            self._seconds.clear()
        micros = self._seconds[text] = int(moment.timestamp()) * 1_000_000
        return micros
