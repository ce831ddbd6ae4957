"""Conflation: a stream's newest state instead of each tick, in a chain that verifies. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from services.common.stream import Position
from services.common.wire import Fields, decode_tick, encode
from services.gateway.chain.stream_record import StreamRecord


class Conflation:
    """What one client in `latest` mode is owed of one stream.

    Args:
        held: the last tick or reset this client was sent (None: nothing yet).
        max_rate: messages a second, None for as many as the client takes.
    """

    __slots__ = ("_due", "_interval", "_pending", "held", "singles")

    def __init__(self, held: Position | None, max_rate: float | None) -> None:
        self.held = held
        # How many messages in a row stood for one tick only.
        self.singles = 0
        self._pending: list[StreamRecord] = []
        self._interval = 0.0
        self._due = 0.0
        self.set_rate(max_rate)

    def set_rate(self, max_rate: float | None) -> None:
        self._due -= self._interval
        self._interval = 1.0 / max_rate if max_rate else 0.0
        self._due += self._interval

    def add(self, record: StreamRecord) -> None:
        """Owe the client this tick too."""
        self._pending.append(record)
        if len(self._pending) >= 64 and record.kind == "tick":
            self._pending = [_MergedRecord(self._pending)]

    @property
    def owing(self) -> bool:
        return bool(self._pending)

    @property
    def due(self) -> float:
        """When the next message may be sent (the clock of `drain`)."""
        return self._due

    def drain(self, now: float) -> tuple[bytes, int] | None:
        """The message that stands for everything owed, and how many ticks it merges."""
        if not self._pending:
            return None
        pending, self._pending = self._pending, []
        merged = sum(map(_ticks_in, pending))
        self.singles = self.singles + 1 if merged == 1 else 0
        tick = merge(pending)
        prev = b"null" if self.held is None else b"%d" % self.held.seq
        self.held = pending[-1].position
        self._due = now + self._interval
        message = b'{"type":"incr","prev":%b,"merged":%d,"tick":%b}' % (prev, merged, tick)
        return message, merged


class _MergedRecord(StreamRecord):
    """Several ticks folded into one, so that a long wait does not hold them all."""

    __slots__ = ("count",)

    def __init__(self, records: list[StreamRecord]) -> None:
        super().__init__(merge(records))
        self.count: int = sum(map(_ticks_in, records))


def _ticks_in(record: StreamRecord) -> int:
    return record.count if isinstance(record, _MergedRecord) else 1


def merge(records: list[StreamRecord]) -> bytes:
    """The last tick, with what it does not say itself taken from those before it.

    The last tick's own bytes where nothing has to be added.
    """
    last = records[-1]
    if len(records) == 1:
        return last.payload
    ticks = [decode_tick(record.payload) for record in records]
    newest = ticks[-1]
    values: dict[str, object] = {}
    for tick in ticks:
        values.update(_given(tick.fields))
    if newest.fields.changes is not None or "changes" in values:
        levels: dict[tuple[str, str], tuple[str, str, str]] = {}
        for tick in ticks:
            for side, price, size in tick.fields.changes or ():
                # Last told, last applied: one price may be written in two ways.
                levels.pop((side, price), None)
                levels[side, price] = (side, price, size)
        values["changes"] = list(levels.values())
    if values == _given(newest.fields):
        return last.payload
    return encode(msgspec.structs.replace(newest, fields=Fields(**values)))  # type: ignore[arg-type]  # values come from Fields


def _given(fields: Fields) -> Mapping[str, object]:
    values = msgspec.structs.asdict(fields)
    return {name: value for name, value in values.items() if value is not None}
