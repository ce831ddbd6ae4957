"""Of which subjects it is known that what is sent next stands on what it follows."""

from __future__ import annotations

from collections.abc import Collection

from services.common.errors import LogWentBack
from services.common.stream.holes import Predecessor, first_on_a_hole
from services.common.stream.nats.publishing.messages import Published
from services.common.stream.nats.publishing.session import Session
from services.common.stream.records import Record
from services.common.subjects import log_of


class Proof:
    """Asks where a subject ends before the first record is sent to it in a session."""

    def __init__(self, predecessor: Predecessor | None) -> None:
        self._predecessor = predecessor
        # None in the first session: what is published was computed from what the log holds.
        self._proven: set[str] | None = None

    def doubt(self) -> None:
        """A session is over, and the server of the next may have less."""
        self._proven = set()

    async def check(self, session: Session, items: Collection[Published]) -> None:
        """Return when all of these, in this order, may be sent; there may be more in the end.

        Raises:
            LogWentBack: one would stand above a hole.
            BrokerUnavailable: the log does not answer.
        """
        proven = self._proven
        if self._predecessor is None or proven is None:
            return
        while any(item.record.subject not in proven for item in items):
            _, hole = await self.sort_out(session, items)
            if hole is not None:
                raise hole

    async def sort_out(
        self, session: Session, items: Collection[Published]
    ) -> tuple[list[Published], LogWentBack | None]:
        """Those of these that may be sent now, in their order; and why others may not.

        Raises:
            BrokerUnavailable: the log does not answer.
        """
        standing = list(items)
        predecessor, proven = self._predecessor, self._proven
        if predecessor is None or proven is None:
            return standing, None
        records: dict[str, list[Record]] = {}
        for item in standing:
            if item.record.subject not in proven:
                records.setdefault(item.record.subject, []).append(item.record)
        holes: dict[str, LogWentBack] = {}
        for subject, asked in records.items():
            state = await session.state(log_of(subject))
            last = await state.last_of(subject)
            newest = None if last is None else last.position
            found = first_on_a_hole(newest, asked, predecessor)
            if found is None:
                proven.add(subject)
            else:
                holes[subject] = LogWentBack(subject, found.position, newest)
        if not holes:
            return standing, None
        standing = [
            item
            for item in standing
            if (hole := holes.get(item.record.subject)) is None
            or item.record.position < hole.position
        ]
        return standing, next(iter(holes.values()))
