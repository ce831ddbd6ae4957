"""Faults on demand: what happens to a message between the market and the clients. Pure, seeded.

A dropped message is lost for every client, while the market has moved on; REST and the control
endpoint still show it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.simulator.faults.oddities import OddKind, distort
from tools.simulator.protocol.messages import Error, Outgoing, encode

Probability = Annotated[float, Field(ge=0, le=1)]
GarbageKind = Literal["json", "utf8", "unknown_type", "binary", "null", "error", "rate_error"]
AnswerKind = Literal["ack_late", "part", "snapshot_late", "error"]
RestAnswerKind = Literal["html", "empty", "undecodable", "cut", "not_json"]


class _Fault(BaseModel):
    # A misspelt fault that silently did nothing would make a test pass for the wrong reason.
    model_config = ConfigDict(extra="forbid")


class Chance(_Fault):
    """What is hit: exactly the next `count`, or each with `probability`."""

    count: int = Field(0, ge=0)
    probability: Probability = 0.0


class Selection(Chance):
    """Which messages may be hit.

    `types` are message types (`match`, `ticker`, `l2update`, `heartbeat`, ...). Empty `types` or
    `products` match all. What answers a subscription (`snapshot`, `last_match`, the first `ticker`)
    is only hit when `greetings` says so.
    """

    types: list[str] = []
    products: list[str] = []
    greetings: bool = False

    def matches(self, message: Outgoing, *, greeting: bool) -> bool:
        return (
            (self.greetings or not greeting)
            and (not self.types or message.type in self.types)
            and (not self.products or message.product in self.products)
        )


class Drop(Selection):
    """`one_connection`: lost for one of those who subscribed it (the longest), not for all."""

    one_connection: bool = False


class Reorder(Selection):
    """The message is sent after the `by` next messages of its product."""

    by: int = Field(1, ge=1)


class Disconnect(_Fault):
    """All clients, now (`every_s` 0) or again and again; `code` None cuts the TCP connection."""

    every_s: float = Field(0, ge=0)
    code: int | None = None
    reason: str = ""


class Garbage(_Fault):
    """`count` bad frames to every client now, then one before each message with `probability`."""

    kind: GarbageKind = "json"
    count: int = Field(1, ge=0)
    probability: Probability = 0.0


class AnswerRule(Chance):
    """Which subscribe requests get another answer.

    `by`: after how many messages of the market the late part comes. `products`: those that a part
    leaves out, or whose snapshots are late; empty is half of what was asked, or all.
    """

    by: int = Field(3, ge=1)
    products: list[str] = []


class RestFault(_Fault):
    """`status` (0: the true answer) after `latency_ms`, for paths that contain one of `paths`.

    Hits each request with `probability`; `count` > 0 limits how many requests are hit. `answer`
    is what is wrong with the body, whatever the status (0 counts as 200): `html` is an error page,
    `undecodable` announces gzip over plain JSON, `cut` ends in the middle of the JSON, `not_json`
    and `empty` speak for themselves.
    """

    status: int = Field(0, ge=0, le=599)
    answer: RestAnswerKind | None = None
    latency_ms: float = Field(0, ge=0)
    probability: Probability = 1.0
    count: int = Field(0, ge=0)
    paths: list[str] = []


class Auction(_Fault):
    """These products only collect orders for `for_s` seconds of the market; their books cross."""

    products: list[str] = Field(min_length=1)
    for_s: float = Field(5, gt=0)


class FaultRequest(_Fault):
    """Body of `POST /_control/faults`: what is given replaces that fault, the rest stays.

    `clear` ends everything first. `stall_s`: open sockets say nothing for so long (what they miss
    is lost). `refuse_s`: new WebSocket connections get 503. `stale_rest_s`: REST answers stay as
    they are at this moment. `odd` says for each kind of oddity which messages it rewrites,
    `answers` for each kind of answer which subscribe requests get it. `delist` and `renumber` name
    products, and cannot be taken back.
    """

    clear: bool = False
    drop: Drop | None = None
    duplicate: Selection | None = None
    reorder: Reorder | None = None
    odd: dict[OddKind, Selection] | None = None
    disconnect: Disconnect | None = None
    garbage: Garbage | None = None
    answers: dict[AnswerKind, AnswerRule] | None = None
    rest: RestFault | None = None
    auction: Auction | None = None
    delist: list[str] = []
    renumber: list[str] = []
    stall_s: float | None = Field(None, ge=0)
    refuse_s: float | None = Field(None, ge=0)
    stale_rest_s: float | None = Field(None, ge=0)


def request_of(body: bytes | str) -> FaultRequest:
    """Read a request. Raises ValueError if it is none; the text names what is wrong."""
    try:
        return FaultRequest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(
            "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'JSON'}: {each['msg']}"
                for each in error.errors()
            )
        ) from error


class NotPossible(Exception):
    """The market behind this exchange cannot do what was asked; nothing was put into force."""


@dataclass(slots=True)
class Delivery:
    """What became of one message: `send` in this order, possibly nothing.

    `one_short`: one of its clients does not get it. `odd` are the kinds that rewrote it.
    """

    send: list[Outgoing]
    fate: Literal["sent", "dropped", "duplicated", "reordered"]
    one_short: bool = False
    odd: tuple[OddKind, ...] = ()


class Rule[C: Chance]:
    """Counts down what was asked."""

    def __init__(self, asked: C, rng: Random) -> None:
        self.asked = asked
        self._rng = rng
        self._left = asked.count
        self._hits = 0

    def due(self) -> bool:
        """Whether the next one is to be hit; `taken` has to follow when it was."""
        probability = self.asked.probability
        return self._left > 0 or (bool(probability) and self._rng.random() < probability)

    def taken(self) -> None:
        self._left = max(0, self._left - 1)
        self._hits += 1

    def hit(self) -> bool:
        due = self.due()
        if due:
            self.taken()
        return due

    def report(self) -> dict[str, object]:
        return {**self.asked.model_dump(), "left": self._left, "hits": self._hits}


@dataclass(slots=True)
class _Held:
    message: Outgoing
    left: int


class MessageFaults:
    """Decides the fate of each message on its way out."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}:faults")
        # Those named `drop`, `duplicate` and `reorder` that are in force.
        self._rules: dict[str, Rule[Any]] = {}
        self._odd: dict[OddKind, Rule[Selection]] = {}
        self._held: deque[_Held] = deque()

    def set(self, request: FaultRequest) -> None:
        if request.clear:
            self._rules.clear()
            self._odd = {}
        for name in ("drop", "duplicate", "reorder"):
            if (asked := getattr(request, name)) is not None:
                self._rules[name] = Rule(asked, self._rng)
        if request.odd is not None:
            self._odd = {kind: Rule(each, self._rng) for kind, each in request.odd.items()}

    @property
    def active(self) -> bool:
        return bool(self._rules or self._odd or self._held)

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def greeting(self, message: Outgoing) -> Delivery:
        """The fate of an answer to a subscription, for the one client that gets it."""
        if self._hit("drop", message, greeting=True):
            return Delivery([], "dropped")
        message, odd = self._distorted(message, greeting=True)
        return Delivery([message], "sent", odd=odd)

    def pass_on(self, message: Outgoing) -> Delivery:
        """The fate of a message for everybody, and what is sent now."""
        drop: Drop | None = self._hit("drop", message)
        if drop is not None and not drop.one_connection:
            return Delivery([], "dropped")
        message, odd = self._distorted(message, greeting=False)
        send = [message]
        fate: Literal["sent", "duplicated"] = "sent"
        # A copy that comes again would give the one client what it has to miss.
        if drop is None:
            reorder: Reorder | None = self._hit("reorder", message)
            if reorder is not None:
                self._held.append(_Held(message, reorder.by))
                return Delivery([], "reordered", odd=odd)
            if self._hit("duplicate", message):
                send.append(message)
                fate = "duplicated"
        send.extend(self._due(message.product))
        return Delivery(send, fate, drop is not None, odd)

    def _hit(self, name: str, message: Outgoing, *, greeting: bool = False) -> Any:
        """What was asked of the rule that hits this message; None where none does."""
        rule = self._rules.get(name)
        if rule is None or not rule.asked.matches(message, greeting=greeting) or not rule.hit():
            return None
        return rule.asked

    def _distorted(
        self, message: Outgoing, *, greeting: bool
    ) -> tuple[Outgoing, tuple[OddKind, ...]]:
        kinds: list[OddKind] = []
        for kind, rule in self._odd.items():
            if not rule.asked.matches(message, greeting=greeting) or not rule.due():
                continue
            distorted = distort(kind, message, self._rng)
            # A kind that the message cannot show must not use up a counted rule.
            if distorted is not None:
                rule.taken()
                message = distorted
                kinds.append(kind)
        return message, tuple(kinds)

    def _due(self, product: str) -> Iterator[Outgoing]:
        for held in [each for each in self._held if each.message.product == product]:
            held.left -= 1
            if held.left == 0:
                self._held.remove(held)
                yield held.message

    def report(self) -> dict[str, object]:
        report: dict[str, object] = {name: rule.report() for name, rule in self._rules.items()}
        if self._odd:
            report["odd"] = {kind: rule.report() for kind, rule in self._odd.items()}
        return report


# Frames that no client should trust: (is text, payload).
GARBAGE: dict[GarbageKind, tuple[bool, bytes]] = {
    "json": (True, b'{"type":"match","trade_id":12,"product_id":"BTC-US'),
    "utf8": (True, b'{"type":"match","product_id":"\xff\xfe"}'),
    "unknown_type": (
        True,
        b'{"type":"weather","product_id":"BTC-USD","sequence":1,"rain":"0.1"}',
    ),
    "binary": (False, bytes(range(32))),
    "null": (True, b"null"),
    "error": (True, encode(Error("Internal error"))),
    "rate_error": (True, encode(Error("Failed to subscribe", "rate limit exceeded"))),
}
