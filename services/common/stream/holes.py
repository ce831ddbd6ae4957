"""Whether what a publisher is about to store stands on what it follows. Pure.

A server that takes over may lack the end of a log. Each publisher writes its own part of it again;
but where several write a subject's records in turn, what was acknowledged to one lies beneath what
was acknowledged to another, and a log refuses what comes after something newer. So whoever knows a
record's predecessor stores it on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.common.stream.records import Position, Record

# The position that must stand in a record's subject before it; None where nothing has to.
Predecessor = Callable[[Record], Position | None]


def first_on_a_hole(
    newest: Position | None, records: Iterable[Record], predecessor: Predecessor
) -> Record | None:
    """The first of a subject's `records` (ascending) that would be stored above a hole.

    `newest` is the subject's newest in the log, None without any. Records at or before it are
    there, or can never be, and are passed over.
    """
    held = newest
    for record in records:
        if held is not None and record.position <= held:
            continue
        before = predecessor(record)
        if before is not None and (held is None or held < before):
            return record
        held = record.position
    return None
