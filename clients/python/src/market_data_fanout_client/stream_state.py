"""What is known of one subscribed stream. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from market_data_fanout_client.book import OrderBook
from market_data_fanout_client.chain import Chain
from market_data_fanout_client.decode import Json
from market_data_fanout_client.freshness import Facts


@dataclass(slots=True)
class StreamState:
    """One subscribed stream.

    Attributes:
        options: of its `subscribe` command, without position.
        from_seq: where the user wants it to begin; the chain's position counts once there is one.
        state_due: its state is void until a snapshot comes; without it a book cannot go on.
        cursor: how `drain` named the position that is held.
    """

    venue: str
    channel: str
    product: str
    options: tuple[tuple[str, Any], ...]
    from_seq: int | None
    chain: Chain
    book: OrderBook | None
    parts: list[Json] = field(default_factory=list)
    backfilling: bool = False
    state_due: bool = False
    cursor: tuple[int, int, str] | None = None
    facts: Facts = field(default_factory=Facts)

    @property
    def names(self) -> dict[str, str]:
        return {"venue": self.venue, "channel": self.channel, "product": self.product}

    def position(self) -> tuple[str, int | None, int | str | None]:
        """What to ask with: a kind of position, its epoch, and itself."""
        chain = self.chain
        if self.state_due and self.channel == "book":
            return "none", None, None
        if chain.seq is None:
            return "from_seq", None, self.from_seq
        if self.cursor is not None and self.cursor[:2] == (chain.epoch, chain.seq):
            return "cursor", None, self.cursor[2]
        return "from_seq", chain.epoch, chain.seq
