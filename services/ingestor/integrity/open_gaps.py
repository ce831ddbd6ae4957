"""Announced gaps whose trades are still asked for: what is left, and whom to ask next. Pure.

The gaps themselves stand in the raw log (`RawRecord.open_gaps`); here is how they shrink, and in
which order the venue is asked for what is left. A range is (first, last), both included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.common.resilience import delay_s
from services.common.wire import Missed, OpenGap
from services.ingestor.integrity.sequencer import Gap

Range = tuple[int, int]

# A stream's gaps that are asked for at the same time. They stand in its statuses, so their number
# has to be bounded; the oldest are given up.
MAX_OPEN = 500
# Ids in one question, at most. The venue answers 1,000 rows, and both neighbours are asked for too.
_PAGE = 998
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


def left_of(gap: OpenGap) -> list[Range]:
    """What of a gap is missing still, ascending."""
    ranges = [gap.missed] if gap.left is None else gap.left
    return [(each.from_, each.to) for each in ranges]


def missed(ranges: Iterable[Range]) -> list[Missed]:
    """Ranges as records name them."""
    return [Missed(first, last) for first, last in ranges]


def within(ranges: Iterable[Range], first: int, last: int) -> list[Range]:
    """The part of the ranges that lies between `first` and `last`."""
    cut = ((max(low, first), min(high, last)) for low, high in ranges)
    return [(low, high) for low, high in cut if low <= high]


def without(ranges: Iterable[Range], taken: Iterable[Range]) -> list[Range]:
    """The ranges without what was `taken` (ascending, not overlapping)."""
    rest = list(ranges)
    for first, last in taken:
        kept: list[Range] = []
        for low, high in rest:
            if last < low or first > high:
                kept.append((low, high))
                continue
            if low < first:
                kept.append((low, first - 1))
            if high > last:
                kept.append((last + 1, high))
        rest = kept
    return rest


def as_ranges(numbers: Iterable[int]) -> list[Range]:
    """Ascending numbers as ranges."""
    ranges: list[Range] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def denied(asked: Gap, numbers: Sequence[int]) -> list[Range]:
    """What of `asked` an answer (ascending ids) says not to exist at the venue.

    A page lists everything between its lowest and its highest id, and says nothing beyond: it may
    have been cut at a limit, or be older than the question.
    """
    if len(numbers) < 2:
        return []
    span = within([(asked.first, asked.last)], numbers[0], numbers[-1])
    return without(span, as_ranges(numbers))


@dataclass(slots=True)
class _Product:
    """How a product is asked for what it misses."""

    due: float
    # Questions in a row that did not help.
    attempts: int = 0
    # Below which id it is asked next, if not from the newest on: an answer that did not help must
    # not keep the ranges below from being asked for.
    below: int | None = None
    denied: list[Range] = field(default_factory=list)


class LateSchedule:
    """Whom to ask next: products in turn, each one's newest range first, with growing pauses.

    Times are seconds of any clock that goes on.
    """

    def __init__(self) -> None:
        self._products: dict[str, _Product] = {}

    def next(self, left: Mapping[str, Sequence[Range]], now: float) -> tuple[str, Gap] | None:
        """The product to ask, and for which ids; None while nobody is due.

        `left`: what is missing of each product that misses something, ascending.
        """
        for product in self._products.keys() - left.keys():
            del self._products[product]
        for product in left:
            self._products.setdefault(product, _Product(now + _FIRST_PAUSE_S))
        due = min(left, key=lambda product: self._products[product].due, default=None)
        if due is None or self._products[due].due > now or not left[due]:
            return None
        return due, _page(self._products[due], left[due])

    def answered(
        self, product: str, asked: Gap, absent: Sequence[Range], now: float, *, helped: bool
    ) -> list[Range]:
        """Take an answer; what of `absent` is denied for good.

        A venue's first denial may be a cache's, so only what two answers running deny is believed.
        """
        asked_of = self._products.setdefault(product, _Product(now))
        before, asked_of.denied = asked_of.denied, []
        sure = [part for low, high in absent for part in within(before, low, high)]
        if absent and not sure:
            asked_of.denied = list(absent)
        if helped or sure:
            asked_of.attempts = 0
            asked_of.due = now
        else:
            self.failed(product, now)
            if not absent:
                asked_of.below = asked.first
        return sure

    def failed(self, product: str, now: float) -> None:
        """The venue did not answer, or not what helps."""
        asked_of = self._products.setdefault(product, _Product(now))
        asked_of.due = now + delay_s(
            asked_of.attempts, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S, least=1.0
        )
        asked_of.attempts += 1


def _page(product: _Product, left: Sequence[Range]) -> Gap:
    ranges = list(left) if product.below is None else within(left, 0, product.below - 1)
    if not ranges:
        product.below = None
        ranges = list(left)
    _, last = ranges[-1]
    # What lies close below comes with the same answer.
    first = min(low for low, high in ranges if high > last - _PAGE)
    return Gap(max(first, last - _PAGE + 1), last)
