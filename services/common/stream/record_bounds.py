"""Which records can be stored at all, on every broker. Pure.

What breaks one of these bounds would be refused by some server for ever, and everything behind it
would wait. So it is refused before it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import InvalidSubject, RecordRefused
from services.common.stream.records import Position, Record
from services.common.subjects import INVALID_SUBJECT, key_of

# Both halves of a Redis entry id are unsigned 64 bits; what is archived has to fit signed ones.
MAX_NUMBER = 2**63 - 1


def check_record(record: Record) -> None:
    """Raise RecordRefused unless every broker could store this (its size apart)."""
    epoch, seq, sub = record.position
    # Nearly all are positions of events, so that this is asked of nearly all and no more.
    if not (0 < seq <= MAX_NUMBER and 0 <= sub <= MAX_NUMBER and 0 <= epoch <= MAX_NUMBER):
        _check_position(record.subject, record.position)
    try:
        if record.subject != INVALID_SUBJECT:
            key_of(record.subject)
    except InvalidSubject as error:
        raise RecordRefused(record.subject, error.reason) from error
    if record.headers:
        _check_headers(record.subject, record.headers)


def _check_position(subject: str, position: Position) -> None:
    for name, number in position._asdict().items():
        if not 0 <= number <= MAX_NUMBER:
            raise RecordRefused(subject, f"{name} {number} is not within 0 and {MAX_NUMBER}")
    if position.seq == 0 and position.sub == 0:
        raise RecordRefused(subject, "no position can be 0; count sub from 1 before the first seq")


def _check_headers(subject: str, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name or not name.isascii() or not name.isprintable() or ":" in name or " " in name:
            raise RecordRefused(subject, f"{name!r} cannot be the name of a header")
        try:
            value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise RecordRefused(subject, f"header {name}: {value!r} is no text") from error
