"""Whose book is compared next: those that are suspected, and each in its turn. Pure.

In a round each product is audited once, the busiest first: where most happens, most can be lost. A
round takes half of the promised time, so that a product which was first in one round and last in
the next has still waited no longer than that. What cost one book an update may have cost others
theirs: a book found wrong makes the next round a quick one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from services.common.resilience import delay_s

# Parts of the time a round may take; the rest is for audits that have to be made again.
_SPARE = 0.9
# Audits of a product in one round that came to nothing, at most.
_ATTEMPTS = 3
# How much shorter the pauses of a quick round are.
_QUICK = 5.0
# A suspicion whose audit came to nothing is looked into again after this.
_AGAIN_S = 2.0
# For so long a book is not suspected again that was suspected and right.
_FIRST_S = 30.0
_LONGEST_S = 600.0


@dataclass
class AuditTurns:
    """See the module."""

    _turn_s: float  # each product has its turn within this time
    _longest_s: float  # the longest pause between two audits, however few products there are
    _seen: dict[str, int] = field(default_factory=dict)
    # Of this round: how often each product was audited, whatever came of it.
    _attempts: dict[str, int] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _quick: int = 0  # audits that are still to be made quickly

    def pause_s(self, products: int) -> float:
        """From the beginning of one audit to the next one's."""
        pause = min(self._longest_s, self._turn_s / 2 * _SPARE / max(1, products))
        return pause / _QUICK if self._quick else pause

    def next(self, messages: Mapping[str, int], under_way: Collection[str]) -> str | None:
        """The product to audit now; `messages`: how many updates each has had."""
        for product in self._seen.keys() - messages.keys():
            del self._seen[product]
        left = [name for name in messages if name not in self._done]
        if not left:
            self._done.clear()
            self._attempts.clear()
            left = list(messages)
        free = [name for name in left if name not in under_way]
        if not free:
            return None
        # One that came to nothing goes behind those that had no turn yet.
        chosen = min(
            free,
            key=lambda name: (
                self._attempts.get(name, 0),
                self._seen.get(name, 0) - messages[name],
                name,
            ),
        )
        self._attempts[chosen] = self._attempts.get(chosen, 0) + 1
        if self._attempts[chosen] >= _ATTEMPTS:
            self._done.add(chosen)
        self._seen[chosen] = messages[chosen]
        self._quick = max(0, self._quick - 1)
        return chosen

    def judged(self, product: str, *, right: bool) -> None:
        """An audit said whether this product's book is right."""
        self._done.add(product)
        if not right:
            self._quick = len(self._seen)


class Suspicions:
    """Products whose books something contradicts, until an audit has said whether it is so.

    What an audit found to be right is not suspected again at once: the longer the more often it
    was right. Times are seconds of any clock that goes on.
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        # Suspicions in a row that were wrong.
        self._cleared: dict[str, int] = {}
        self._quiet_until: dict[str, float] = {}

    def raised(self, product: str, now: float) -> bool:
        """Something contradicts this book; whether that is news."""
        if product in self._due or now < self._quiet_until.get(product, now):
            return False
        self._due[product] = now
        return True

    def due(self, now: float) -> list[str]:
        """Products to audit now, the longest suspected first."""
        return sorted(
            (product for product, due in self._due.items() if due <= now), key=self._due.__getitem__
        )

    def audited(self, product: str, now: float, *, right: bool, conclusive: bool) -> None:
        """An audit has ended, for whatever reason it was made."""
        if not conclusive:
            if product in self._due:
                self._due[product] = now + _AGAIN_S
            return
        was_suspected = self._due.pop(product, None) is not None
        if not right:
            self._cleared.pop(product, None)
            self._quiet_until.pop(product, None)
        elif was_suspected:
            attempt = self._cleared.get(product, 0)
            self._cleared[product] = attempt + 1
            self._quiet_until[product] = now + delay_s(
                attempt, first_s=_FIRST_S, cap_s=_LONGEST_S, least=1.0
            )
