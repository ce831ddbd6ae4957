"""Answers to subscribe requests that are not the ones hoped for. Pure, seeded.

The venue acknowledges after its first data (`ack_late`), grants a part and says that it was asked
too much (`part`), refuses without naming a product (`error`), or sends updates before the snapshot
they belong on (`snapshot_late`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tools.simulator.faults.feed_faults import AnswerKind, AnswerRule, FaultRequest, Rule
from tools.simulator.protocol.messages import Channel, Error
from tools.simulator.protocol.subscriptions import Answer, ClientSubscriptions, Pair

RATE_ERROR = Error("Failed to subscribe", "rate limit exceeded")
NAMELESS_ERROR = Error("Failed to subscribe", "Internal error")
_BOOKS = (Channel.LEVEL2, Channel.LEVEL2_BATCH)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request leads to: `answer`, then the errors in `behind`.

    `ack_after`: how many messages of the market the client gets before the acknowledgement; 0 is
    none, what the subscription begins with included. `late` pairs get their snapshot only after
    `late_by` messages of their product.
    """

    answer: Answer
    behind: list[Error] = field(default_factory=list)
    ack_after: int = 0
    late: frozenset[Pair] = frozenset()
    late_by: int = 0


class AnswerFaults:
    """Decides what becomes of each request that was carried out."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}:answers")
        self._rules: dict[AnswerKind, Rule[AnswerRule]] = {}

    def set(self, request: FaultRequest) -> None:
        if request.clear:
            self._rules = {}
        if request.answers is not None:
            self._rules = {kind: Rule(asked, self._rng) for kind, asked in request.answers.items()}

    def plan(self, subscriptions: ClientSubscriptions, answer: Answer) -> Plan:
        """What the client sees of `answer`; pairs it is not granted are taken from it again."""
        if not answer.added or not self._rules:
            return Plan(answer)
        if self._hit("error"):
            subscriptions.forget(answer.added)
            return Plan(Answer(NAMELESS_ERROR))
        behind: list[Error] = []
        part = self._hit("part")
        if part:
            answer = self._part(part, subscriptions, answer)
            behind.append(RATE_ERROR)
        ack = self._hit("ack_late")
        snapshot = self._hit("snapshot_late")
        late = [
            (channel, product)
            for channel, product in answer.added
            if snapshot and channel in _BOOKS and product in (snapshot.products or [product])
        ]
        return Plan(
            answer,
            behind,
            ack_after=ack.by if ack else 0,
            late=frozenset(late),
            late_by=snapshot.by if snapshot else 0,
        )

    def _part(self, rule: AnswerRule, subscriptions: ClientSubscriptions, answer: Answer) -> Answer:
        asked = list(dict.fromkeys(product for _, product in answer.added if product))
        without = rule.products or self._rng.sample(asked, (len(asked) + 1) // 2)
        refused = [pair for pair in answer.added if pair[1] in without]
        subscriptions.forget(refused)
        granted = [pair for pair in answer.added if pair not in refused]
        reply = answer.reply if isinstance(answer.reply, Error) else subscriptions.acknowledge()
        return Answer(reply, added=granted, removed=answer.removed)

    def _hit(self, kind: AnswerKind) -> AnswerRule | None:
        rule = self._rules.get(kind)
        return rule.asked if rule is not None and rule.hit() else None

    def report(self) -> dict[str, object]:
        return {kind: rule.report() for kind, rule in self._rules.items()}
