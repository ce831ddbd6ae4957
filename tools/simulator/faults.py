"""Faults on demand: what happens to a message between the market and the clients. Pure, seeded.

A dropped message is lost for every client, while the market has moved on; REST and the control
endpoint still show it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tools.simulator.messages import Outgoing

Probability = Annotated[float, Field(ge=0, le=1)]
GarbageKind = Literal["json", "utf8", "unknown_type", "binary"]


class _Fault(BaseModel):
    # A misspelt fault that silently did nothing would make a test pass for the wrong reason.
    model_config = ConfigDict(extra="forbid")


class Selection(_Fault):
    """Which messages: exactly the next `count` matching ones, or each with `probability`.

    `types` are message types (`match`, `ticker`, `l2update`, `heartbeat`, ...). Empty `types` or
    `products` match all. What answers a subscription (`snapshot`, `last_match`, the first `ticker`)
    is only hit when `greetings` says so.
    """

    count: int = Field(0, ge=0)
    probability: Probability = 0.0
    types: list[str] = []
    products: list[str] = []
    greetings: bool = False


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


class RestFault(_Fault):
    """`status` (0: the true answer) after `latency_ms`, for paths that contain one of `paths`.

    Hits each request with `probability`; `count` > 0 limits how many requests are hit.
    """

    status: int = Field(0, ge=0, le=599)
    latency_ms: float = Field(0, ge=0)
    probability: Probability = 1.0
    count: int = Field(0, ge=0)
    paths: list[str] = []


class FaultRequest(_Fault):
    """Body of `POST /_control/faults`: what is given replaces that fault, the rest stays.

    `clear` ends everything first. `stall_s`: open sockets say nothing for so long (what they miss
    is lost). `refuse_s`: new WebSocket connections get 503. `stale_rest_s`: REST answers stay as
    they are at this moment.
    """

    clear: bool = False
    drop: Selection | None = None
    duplicate: Selection | None = None
    reorder: Reorder | None = None
    disconnect: Disconnect | None = None
    garbage: Garbage | None = None
    rest: RestFault | None = None
    stall_s: float | None = Field(None, ge=0)
    refuse_s: float | None = Field(None, ge=0)
    stale_rest_s: float | None = Field(None, ge=0)


@dataclass(slots=True)
class Delivery:
    """What became of one message: `send` in this order, possibly nothing."""

    send: list[Outgoing]
    fate: Literal["sent", "dropped", "duplicated", "reordered"]


class Rule:
    """Counts down one `Selection`."""

    def __init__(self, selection: Selection, rng: Random) -> None:
        self.selection = selection
        self._rng = rng
        self.left = selection.count
        self.hits = 0

    def hit(self, message: Outgoing, *, greeting: bool) -> bool:
        chosen = self.selection
        if greeting and not chosen.greetings:
            return False
        if chosen.types and message.type not in chosen.types:
            return False
        if chosen.products and message.product not in chosen.products:
            return False
        if self.left > 0:
            self.left -= 1
        elif not (chosen.probability and self._rng.random() < chosen.probability):
            return False
        self.hits += 1
        return True


@dataclass(slots=True)
class _Held:
    message: Outgoing
    left: int


class MessageFaults:
    """Decides the fate of each message on its way out."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}:faults")
        self.drop: Rule | None = None
        self.duplicate: Rule | None = None
        self.reorder: Rule | None = None
        self._held: deque[_Held] = deque()

    def set(self, request: FaultRequest) -> None:
        """Take over the message faults of a request."""
        if request.clear:
            self.drop = self.duplicate = self.reorder = None
        if request.drop is not None:
            self.drop = Rule(request.drop, self._rng)
        if request.duplicate is not None:
            self.duplicate = Rule(request.duplicate, self._rng)
        if request.reorder is not None:
            self.reorder = Rule(request.reorder, self._rng)

    @property
    def active(self) -> bool:
        return bool(self.drop or self.duplicate or self.reorder or self._held)

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def keep_greeting(self, message: Outgoing) -> bool:
        """Whether an answer to a subscription reaches its client."""
        return self.drop is None or not self.drop.hit(message, greeting=True)

    def pass_on(self, message: Outgoing) -> Delivery:
        """The fate of a message for everybody, and what is sent now."""
        if self.drop is not None and self.drop.hit(message, greeting=False):
            return Delivery([], "dropped")
        if self.reorder is not None and self.reorder.hit(message, greeting=False):
            selection = self.reorder.selection
            by = selection.by if isinstance(selection, Reorder) else 1
            self._held.append(_Held(message, by))
            return Delivery([], "reordered")
        send = [message]
        fate: Literal["sent", "duplicated"] = "sent"
        if self.duplicate is not None and self.duplicate.hit(message, greeting=False):
            send.append(message)
            fate = "duplicated"
        send.extend(self._due(message.product))
        return Delivery(send, fate)

    def _due(self, product: str) -> Iterator[Outgoing]:
        for held in [each for each in self._held if each.message.product == product]:
            held.left -= 1
            if held.left == 0:
                self._held.remove(held)
                yield held.message

    def report(self) -> dict[str, object]:
        rules = {"drop": self.drop, "duplicate": self.duplicate, "reorder": self.reorder}
        return {
            name: {**rule.selection.model_dump(), "left": rule.left, "hits": rule.hits}
            for name, rule in rules.items()
            if rule is not None
        }


def garbage_frame(kind: GarbageKind) -> tuple[bool, bytes]:
    """(is text, payload) of a frame no client should trust."""
    match kind:
        case "json":
            return True, b'{"type":"match","trade_id":12,"product_id":"BTC-US'
        case "utf8":
            return True, b'{"type":"match","product_id":"\xff\xfe"}'
        case "unknown_type":
            return True, b'{"type":"weather","product_id":"BTC-USD","sequence":1,"rain":"0.1"}'
        case "binary":
            return False, bytes(range(32))
