"""How records look in a memory log. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from services.common.stream.records import Message, Position, Record

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class StoredRecord(Message):
    """A record in a memory log. `seq` counts the log's records from 1; `at` is seconds."""

    __slots__ = ("_headers", "_position", "at", "cursor", "payload", "seq", "subject")

    def __init__(self, record: Record, seq: int, cursor: str, at: float) -> None:
        self.subject = record.subject
        self.payload = record.payload
        self.cursor = cursor
        self.seq = seq
        self.at = at
        self._position = record.position
        self._headers = record.headers or _NO_HEADERS

    @property
    def position(self) -> Position:
        return self._position

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers
