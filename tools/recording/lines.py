"""One line of a recording: a frame, a new connection, or something to leave out. Pure.

Public recorders write one message a line: as it came, behind the time at which it was received
(a number of seconds, ms, µs or ns, or an ISO 8601 time; then a tab, spaces, a colon or another
separator), or inside an object or a pair that holds both. Some note what they sent, and where a
connection began. The rules go by shape, not by recorder.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from services.common.wire import UNREADABLE

_TIME = re.compile(
    r"(?P<number>\d{9,19}(?:\.\d+)?)"
    r"|(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
# What a recorder may call the message and the time of its receipt, in an object around both.
_FRAME_KEYS = ("frame", "message", "msg", "data", "raw", "payload", "body")
_TIME_KEYS = (
    *("ts", "ts_recv", "recv_ts", "received", "received_at", "receive_time", "timestamp"),
    *("local_timestamp", "localTimestamp", "time", "t"),
)
_DIRECTION_KEYS = ("dir", "direction", "event", "kind", "type", "op", "marker")
_SENT_WORDS = frozenset({"send", "sent", "out", "tx", ">", "->"})
_SENT_TYPES = frozenset({"subscribe", "unsubscribe"})
# The end of a connection is known by the beginning of the next.
_CONNECTED = re.compile(r"\b(re)?connect(ed|ion)?\b|<->", re.IGNORECASE)
_DISCONNECTED = re.compile(r"\bdisconnect(ed|ion)?\b", re.IGNORECASE)
# The brackets around lines that form one JSON array.
_ARRAY = frozenset({b"[", b"]"})


class Framed(NamedTuple):
    """A message of the venue. `received_us` is None where the recorder noted no time."""

    body: bytes
    received_us: int | None


class Connected(NamedTuple):
    """Here a connection began, or the one before it ended."""


class LeftOut(NamedTuple):
    """A line that is no message of the venue, and why."""

    reason: str


Line = Framed | Connected | LeftOut


def read_line(raw: bytes) -> Line | None:
    """What a line says; None for a blank one and for a bracket of an array."""
    line = raw.strip().removeprefix(b"\xef\xbb\xbf").removesuffix(b",")
    if not line or line in _ARRAY:
        return None
    begin = min((at for at in (line.find(b"{"), line.find(b"[")) if at >= 0), default=-1)
    if begin < 0:
        return _without_frame(line)
    before, body = line[:begin].decode(errors="replace"), line[begin:]
    received = _time_in(before) if before else None
    try:
        message = msgspec.json.decode(body)
    except UNREADABLE:
        return LeftOut("bad_json")
    return _framed(message, body, received)


def _without_frame(line: bytes) -> Line:
    text = line.decode(errors="replace")
    if _CONNECTED.search(text) or _DISCONNECTED.search(text):
        return Connected()
    return LeftOut("bad_json" if _TIME.match(text) is None else "no_message")


def _framed(message: Any, body: bytes, received: int | None) -> Line:
    if isinstance(message, list):
        return _listed(message, body, received)
    kind = message.get("type")
    inner = next((message[key] for key in _FRAME_KEYS if key in message), None)
    # An error of the venue has a type and a `message` that is a text of its own.
    packed = isinstance(inner, dict) and "type" in inner
    if kind is None or packed or (isinstance(inner, str) and inner.lstrip()[:1] in ("{", "[")):
        return _enveloped(message, inner, received)
    if isinstance(kind, str) and kind in _SENT_TYPES:
        return LeftOut("sent")
    if isinstance(kind, str) and _is_marker(kind):
        return Connected()
    return Framed(body, received)


def _listed(message: list[Any], body: bytes, received: int | None) -> Line:
    # [time, frame]; a row of the venue's own begins with its name.
    if len(message) == 2 and not _is_name(message[0]):
        return _unwrapped(message[1], _time(message[0]))
    if message and isinstance(message[0], str):
        return Framed(body, received)
    return LeftOut("no_type")


def _is_name(cell: object) -> bool:
    return isinstance(cell, str) and _time(cell) is None


def _enveloped(message: dict[str, Any], inner: object, received: int | None) -> Line:
    words = [str(message[key]).casefold() for key in _DIRECTION_KEYS if key in message]
    if any(word in _SENT_WORDS for word in words):
        return LeftOut("sent")
    if inner is None:
        return Connected() if any(map(_is_marker, words)) else LeftOut("no_type")
    noted = next((_time(message[key]) for key in _TIME_KEYS if key in message), None)
    return _unwrapped(inner, received if noted is None else noted)


def _unwrapped(inner: object, received: int | None) -> Line:
    if isinstance(inner, str):
        body = inner.encode()
        try:
            inner = msgspec.json.decode(body)
        except UNREADABLE:
            return LeftOut("bad_json")
    else:
        body = msgspec.json.encode(inner)
    if isinstance(inner, dict) and isinstance(inner.get("type"), str):
        return LeftOut("sent") if inner["type"] in _SENT_TYPES else Framed(body, received)
    if isinstance(inner, list) and inner and isinstance(inner[0], str):
        return Framed(body, received)
    return LeftOut("no_type")


def _is_marker(word: str) -> bool:
    return bool(_CONNECTED.fullmatch(word) or _DISCONNECTED.fullmatch(word))


def _time_in(text: str) -> int | None:
    found = _TIME.search(text)
    return None if found is None else _time(found[0])


def _time(value: object) -> int | None:
    """Microseconds of a noted time; None where it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _scaled(str(value))
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    if found["number"] is not None:
        return _scaled(found["number"])
    whole, _, fraction = found["iso"].replace(",", ".").partition(".")
    try:
        moment = datetime.fromisoformat(whole + (found["zone"] or "Z"))
        second = round(moment.timestamp())
    except (ValueError, OverflowError):
        return None
    if second < 0:
        # Nobody recorded a feed before 1970.
        return None
    return second * 1_000_000 + int(fraction[:6].ljust(6, "0"))


def _scaled(text: str) -> int | None:
    """A number of seconds, ms, µs or ns since 1970, told apart by its size; as microseconds."""
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or not 9 <= len(whole) <= 19:
        return None
    digits = len(whole)
    decimals = 6 if digits <= 11 else 3 if digits <= 14 else 0 if digits <= 17 else -3
    if decimals < 0:
        return int(whole[:decimals])
    return int(whole + fraction[:decimals].ljust(decimals, "0"))
