"""Whether a subscriber holds what the exchange behind the stack knows to be true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

import httpx
import msgspec
from market_data_fanout_client.chain import Verdict

from services.common.domain.book import BadLevel, Book
from tools.subscribed_book import SubscribedBook, record_of
from tools.subscriber import Message

# Price, size, side: what makes two trades of one id the same.
Trade = tuple[Decimal, Decimal, str]
# The exchange forgets older ones, so nobody can compare them.
_TRADES_KEPT = 100_000
# What is on its way when the exchange stands still arrives in less, or never.
PATIENCE_S = 15.0
_POLL_S = 0.2


class Held:
    """The books and trades one subscriber was given; feed it every message and its verdict."""

    def __init__(self) -> None:
        self.books: dict[str, SubscribedBook] = {}
        self.trades: dict[str, dict[int, Trade]] = {}
        # What could not be read, by product.
        self.unreadable: dict[str, str] = {}

    def take(self, message: Message, verdict: Verdict | None) -> None:
        record = record_of(message)
        product = record.get("product")
        if not isinstance(product, str):
            return
        if record.get("channel") == "book":
            try:
                self.books.setdefault(product, SubscribedBook()).take(message, verdict)
            except BadLevel as error:
                self.unreadable.setdefault(product, str(error))
        elif record.get("channel") == "trades":
            held = self.trades.setdefault(product, {})
            held.update((trade["trade_id"], _trade(trade)) for trade in _trades(message, record))
            if len(held) > 2 * _TRADES_KEPT:
                for old in sorted(held)[:-_TRADES_KEPT]:
                    del held[old]


def _trades(message: Message, record: Message) -> Iterable[Message]:
    """The trades that a message of the trades channel carries, by whatever way they came."""
    kind = message["type"]
    if kind == "incr":
        trade = record["fields"].get("last_trade")
        return [trade] if trade else []
    if kind == "late":
        ticks = message["ticks"]
        return [tick["fields"]["last_trade"] for tick in ticks]
    if kind in ("snapshot", "reset"):
        trades: list[Message] = (record.get("state") or {}).get("trades") or []
        return trades
    return []


def _trade(trade: Mapping[str, Any]) -> Trade:
    return Decimal(trade["price"]), Decimal(trade["size"]), trade["side"]


@dataclass(frozen=True)
class Truth:
    """One product as the exchange knows it.

    `book` is None where no book can be known (a recording without a snapshot). `told_after`: the
    trade that stood before the first one that the feed told of; None when it told of none.
    """

    book: Book | None
    trades: dict[int, Trade]
    told_after: int | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read an answer of the exchange's `/_control/model/{product}`."""
        model = msgspec.json.decode(body)
        book = None
        if model["book"] is not None:
            book = Book()
            book.replace(model["book"]["bids"], model["book"]["asks"])
        # The venue names the maker's side, subscribers are given the taker's.
        taker = {"buy": "sell", "sell": "buy"}
        trades = {
            each["trade_id"]: _trade({**each, "side": taker[each["side"]]})
            for each in model["trades"]
        }
        return cls(book, trades, model["told_after"])

    def book_differs(self, held: SubscribedBook | None) -> str | None:
        """How a subscriber's book differs from this one; None when it does not."""
        if self.book is None:
            return None
        if held is None or not held.complete:
            return "is not held"
        if held.book == self.book:
            return None
        ours, theirs = _levels(held.book), _levels(self.book)
        wrong = sum(theirs.get(level) != size for level, size in ours.items())
        missing = len(theirs.keys() - ours.keys())
        return f"has {wrong} wrong and {missing} missing of {len(theirs)} levels"

    def trades_differ(self, held: Mapping[int, Trade], after: int | None) -> str | None:
        """How a subscriber's trades differ from the ones behind trade `after`."""
        after = self.told_after if after is None else after
        due = {i: trade for i, trade in self.trades.items() if after is None or i > after}
        missing = sum(i not in held for i in due)
        oldest = min(self.trades, default=0)
        wrong = sum(
            self.trades.get(i) != trade for i, trade in held.items() if i >= oldest or i in due
        )
        if not missing and not wrong:
            return None
        return f"have {wrong} wrong and {missing} missing of {len(due)}"


def _levels(book: Book) -> dict[tuple[str, Decimal], Decimal]:
    return {
        (side, Decimal(price)): Decimal(size)
        for side, rows in (("buy", book.bids()), ("sell", book.asks()))
        for price, size in rows
    }


@dataclass
class Comparison:
    """What a subscriber holds against the truth; None where there is no truth to compare with."""

    books_equal: bool | None = None
    trades_equal: bool | None = None
    differences: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, held: Held, truths: Mapping[str, Truth], after: Mapping[str, int | None]) -> Self:
        """`after` names for each product the trade behind which all have to be held."""
        books = {
            name: truth.book_differs(held.books.get(name))
            for name, truth in truths.items()
            if truth.book is not None
        }
        books |= {name: f"cannot be read: {why}" for name, why in held.unreadable.items()}
        trades = {
            name: truth.trades_differ(held.trades.get(name, {}), after.get(name))
            for name, truth in truths.items()
        }
        differences = [f"the book of {name} {text}" for name, text in books.items() if text]
        differences += [f"the trades of {name} {text}" for name, text in trades.items() if text]
        return cls(
            not any(books.values()) if books else None,
            not any(trades.values()) if trades else None,
            differences,
        )

    @property
    def equal(self) -> bool:
        return not self.differences


class Witness:
    """Asks the exchange beside a stack for the truth.

    Raises:
        httpx.HTTPError: the exchange does not answer, from every method.
    """

    def __init__(self, exchange_url: str, products: Sequence[str]) -> None:
        self._url = exchange_url
        self._products = products
        self._after: dict[str, int | None] = {}

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, timeout=30, trust_env=False)

    @staticmethod
    async def _flow(client: httpx.AsyncClient, *, running: bool) -> None:
        answer = await client.post("/_control/flow", json={"running": running})
        answer.raise_for_status()

    async def begin(self) -> None:
        """From now on every trade has to reach the subscriber."""
        async with self._client() as client:
            answer = await client.get("/_control")
            answer.raise_for_status()
            report = answer.json()
            for name in self._products:
                product = report["products"].get(name, {})
                # A recording is told from its beginning to whoever comes first.
                recorded = report["mode"] == "replay"
                self._after[name] = None if recorded else product.get("last_trade_id")
            # A recording was held back until somebody would see it from its beginning.
            await self._flow(client, running=True)

    async def compare(self, held: Held, patience_s: float = PATIENCE_S) -> Comparison:
        """Let the exchange stand still, wait for what is on its way, and compare."""
        async with self._client() as client:
            await self._flow(client, running=False)
            truths: dict[str, Truth] = {}
            for name in self._products:
                answer = await client.get(f"/_control/model/{name}")
                if answer.status_code != 404:
                    answer.raise_for_status()
                    truths[name] = Truth.parse(answer.content)
        deadline = time.monotonic() + patience_s
        while True:
            found = Comparison.of(held, truths, self._after)
            if found.equal or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_POLL_S)
