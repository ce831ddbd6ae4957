"""The trades of one product so far: what REST pages through and the control endpoint shows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from tools.simulator.protocol.messages import Match

PAGE_LIMIT = 1000


class Tape:
    """Trades in ascending trade id; the oldest are forgotten beyond `keep`."""

    def __init__(self, keep: int = 100_000) -> None:
        self._keep = keep
        self._trades: list[Match] = []

    def add(self, trade: Match) -> None:
        """Append a trade; one that is not newer than the last is ignored."""
        if self._trades and trade.trade_id <= self._trades[-1].trade_id:
            return
        self._trades.append(trade)
        # Cut rarely, in one go, so that adding stays cheap.
        if len(self._trades) > self._keep + self._keep // 4:
            del self._trades[: -self._keep]

    def __len__(self) -> int:
        return len(self._trades)

    @property
    def last(self) -> Match | None:
        return self._trades[-1] if self._trades else None

    def all(self) -> list[Match]:
        """Ascending, the newest `keep`."""
        return self._trades[-self._keep :]

    def page(
        self, before: int | None = None, after: int | None = None, limit: int = PAGE_LIMIT
    ) -> list[Match]:
        """At most `limit` trades, newest first, with `before` < id < `after` (both exclusive)."""
        low = 0 if before is None else bisect_right(self._trades, before, key=_id)
        high = len(self._trades) if after is None else bisect_left(self._trades, after, key=_id)
        return self._trades[max(low, high - limit) : high][::-1] if high > low else []

    def copy(self) -> Tape:
        twin = Tape(self._keep)
        twin._trades = self._trades.copy()
        return twin


def _id(trade: Match) -> int:
    return trade.trade_id
