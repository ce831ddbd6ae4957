"""A book as a subscriber builds it: snapshots, which may come in parts, and changes. Pure."""

from __future__ import annotations

from typing import Any

from market_data_fanout_client.chain import Verdict

from services.common.domain.book import Book


class SubscribedBook:
    """Feed it every message of one book stream together with the chain's verdict on it."""

    def __init__(self) -> None:
        self.book = Book()
        # Whether the whole book is held; False before the first snapshot and after a reset.
        self.complete = False
        self._bids: list[Any] = []
        self._asks: list[Any] = []
        self._last_part = 0

    def take(self, message: dict[str, Any], verdict: Verdict | None) -> None:
        """Apply one `snapshot`, `reset` or `incr` message.

        Raises:
            BadLevel: a row is malformed.
        """
        kind = message["type"]
        if kind == "snapshot":
            self._part(message)
        elif kind == "reset" and verdict is Verdict.APPLY:
            self.complete = False
            state = record_of(message).get("state")
            if state:
                self._replace(state["bids"], state["asks"])
        elif kind == "incr" and verdict is Verdict.APPLY and self.complete:
            self.book.apply(message["tick"]["fields"].get("changes") or ())

    def _part(self, message: dict[str, Any]) -> None:
        part = message.get("part", 0)
        if part <= self._last_part:
            # The parts before belong to a snapshot whose end never came.
            self._bids, self._asks = [], []
        self._last_part = part
        state = message["snapshot"]["state"]
        self._bids += state.get("bids", ())
        self._asks += state.get("asks", ())
        if message.get("last", True):
            self._replace(self._bids, self._asks)
            self._bids, self._asks = [], []
            self._last_part = 0

    def _replace(self, bids: list[Any], asks: list[Any]) -> None:
        self.book.replace(bids, asks)
        self.complete = True


def record_of(message: dict[str, Any]) -> dict[str, Any]:
    """The record inside a server message: a tick, a snapshot, a reset or a status."""
    for name in ("tick", "snapshot", "reset", "status"):
        inner = message.get(name)
        if isinstance(inner, dict):
            return inner
    return message
