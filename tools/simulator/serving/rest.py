"""The venue's public REST API over a `Venue`, and the cache before it.

Pure: a path and a query in, an answer out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.common.domain.book import BUY, SELL
from tools.simulator.clock import SECOND, iso6, iso9
from tools.simulator.market.products import Product, product_rows, trim
from tools.simulator.protocol.messages import encode
from tools.simulator.venue import PAGE_LIMIT, ProductState, Venue


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """`max_age` is how many seconds the edge may repeat it; None: never."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    max_age: int | None = None


class EdgeCache:
    """Repeats an answer until its `max-age` is over, as the venue's CDN does.

    The staleness is real: a client that asks right after a gap may get an answer from before it.
    """

    _KEEP = 1000

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, RestAnswer]] = {}

    def find(self, url: str, now_s: float) -> RestAnswer | None:
        """The held answer with its `Age`, while it is fresh."""
        held = self._held.get(url)
        if held is None:
            return None
        since, answer = held
        age = now_s - since
        if answer.max_age is None or age >= answer.max_age:
            del self._held[url]
            return None
        return _through(answer, math.ceil(age), "HIT")

    def keep(self, url: str, answer: RestAnswer, now_s: float) -> RestAnswer:
        """Hold an answer of the origin; returns it as the client gets it."""
        if answer.max_age is None or answer.status != 200:
            return answer
        if len(self._held) >= self._KEEP:
            self._held.clear()
        self._held[url] = (now_s, answer)
        return _through(answer, 0, "MISS")


def _through(answer: RestAnswer, age: int, status: str) -> RestAnswer:
    headers = {**answer.headers, "Age": str(age), "CF-Cache-Status": status}
    return replace(answer, headers=headers)


_TRADES_MAX_AGE = 1
_PRODUCTS_MAX_AGE = 5


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


class RestApi:
    """Answers requests; `freeze` makes the answers stay as they are for a while."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._frozen: dict[str, ProductState] = {}
        self._frozen_us = 0

    def freeze(self) -> None:
        """From now on answer as of this instant, until `thaw`."""
        self._frozen_us = self._venue.now_us
        for each in self._venue.products:
            if each.tradable:
                state = self._venue.state(each.id, orders=True)
                self._frozen[each.id] = replace(state, tape=state.tape.copy())

    def thaw(self) -> None:
        self._frozen.clear()

    def get(self, path: str, query: Mapping[str, str]) -> RestAnswer:
        """Answer a GET; what is wrong with a request is an answer too."""
        try:
            return self._route(path.strip("/").split("/"), query)
        except _Refused as refused:
            return RestAnswer(refused.status, encode({"message": refused.message}))

    def _route(self, parts: list[str], query: Mapping[str, str]) -> RestAnswer:
        match parts:
            case ["time"]:
                return self._time()
            case ["products"]:
                return _cached(product_rows(self._venue.products), _PRODUCTS_MAX_AGE)
            case ["products", product]:
                return self._product(product)
            case ["products", product, "book"]:
                return self._book(product, query)
            case ["products", product, "ticker"]:
                return self._ticker(self._state(product, depth=1))
            case ["products", product, "trades"]:
                return self._trades(self._state(product, depth=0), query)
            case _:
                raise _Refused(404, "NotFound")

    def _time(self) -> RestAnswer:
        now = self._frozen_us if self._frozen else self._venue.now_us
        body = {"iso": f"{iso6(now)[:-4]}Z", "epoch": round(now / SECOND, 3)}
        return RestAnswer(200, encode(body), {"Cache-Control": "no-store"})

    def _find(self, product: str) -> Product | None:
        return next((each for each in self._venue.products if each.id == product), None)

    def _product(self, product: str) -> RestAnswer:
        found = self._find(product)
        if found is None:
            raise _Refused(404, "NotFound")
        return _cached(product_rows([found])[0], _PRODUCTS_MAX_AGE)

    def _state(
        self, product: str, *, orders: bool = False, depth: int | None = None
    ) -> ProductState:
        found = self._find(product)
        if found is not None and not found.tradable:
            raise _Refused(400, "Not allowed for delisted products")
        if product in self._frozen:
            return self._frozen[product]
        try:
            return self._venue.state(product, orders=orders, depth=depth)
        except KeyError:
            raise _Refused(404, "NotFound") from None

    def _book(self, product: str, query: Mapping[str, str]) -> RestAnswer:
        found = self._find(product)
        if (
            found is not None
            and found.tradable
            and product not in self._frozen
            and not self._venue.has_book(product)
        ):
            # A recording that has not come to its first snapshot.
            raise _Refused(404, "NotFound")
        level = query.get("level", "1")
        # Writing out a deep book takes long, so no more of it than is asked for.
        depth = {"1": 1, "2": None}.get(level, 0)
        state = self._state(product, orders=level == "3", depth=depth)
        bids: Sequence[tuple[str, str, int | str]]
        asks: Sequence[tuple[str, str, int | str]]
        match level:
            case "1" | "2":
                bids, asks = (
                    [(trim(price), trim(size), orders) for price, size, orders in rows[:depth]]
                    for rows in (state.bids, state.asks)
                )
            case "3":
                bids, asks = (_by_order(state, side) for side in (BUY, SELL))
            case _:
                raise _Refused(400, "Invalid level")
        body = {
            "bids": bids,
            "asks": asks,
            "sequence": state.sequence,
            "auction_mode": state.auction,
            "auction": _auction(state) if state.auction else None,
            "time": iso9(state.time_us),
        }
        return RestAnswer(200, encode(body), {"Cache-Control": "no-store"})

    def _ticker(self, state: ProductState) -> RestAnswer:
        trade = state.last_trade
        if trade is None:
            raise _Refused(404, "NotFound")
        body: dict[str, object] = {
            "ask": trim(state.asks[0][0]) if state.asks else None,
            "bid": trim(state.bids[0][0]) if state.bids else None,
            "volume": state.figures.get("volume_24h"),
            "trade_id": trade.trade_id,
            "price": trade.price,
            "size": trade.size,
            "time": f"{trade.time[:-1]}000Z",
            "rfq_volume": "0.00000000",
        }
        if body["volume"] is None:
            # A recorded market does not know its day.
            del body["volume"]
        return _cached(body, _TRADES_MAX_AGE)

    def _trades(self, state: ProductState, query: Mapping[str, str]) -> RestAnswer:
        limit = _number(query, "limit")
        if limit is not None and limit < 1:
            raise _Refused(400, "Invalid limit")
        page = state.tape.page(
            before=_number(query, "before"),
            after=_number(query, "after"),
            limit=min(limit or PAGE_LIMIT, PAGE_LIMIT),
        )
        body = [
            {name: getattr(trade, name) for name in ("trade_id", "side", "size", "price", "time")}
            for trade in page
        ]
        answer = _cached(body, _TRADES_MAX_AGE)
        if page:
            answer.headers["CB-BEFORE"] = str(page[0].trade_id)
            answer.headers["CB-AFTER"] = str(page[-1].trade_id)
        return answer


def _auction(state: ProductState) -> dict[str, object]:
    bid, ask = (rows[0] if rows else ("0", "0", 0) for rows in (state.bids, state.asks))
    return {
        "open_price": trim(ask[0]),
        "open_size": "0",
        "best_bid_price": trim(bid[0]),
        "best_bid_size": trim(bid[1]),
        "best_ask_price": trim(ask[0]),
        "best_ask_size": trim(ask[1]),
        "auction_state": "collection",
        "can_open": "yes",
        "time": iso9(state.time_us),
    }


def _cached(body: object, max_age: int) -> RestAnswer:
    headers = {"Cache-Control": f"public, max-age={max_age}"}
    return RestAnswer(200, encode(body), headers, max_age)


def _by_order(state: ProductState, wanted: str) -> list[tuple[str, str, str]]:
    if state.orders is None:
        raise _Refused(400, "Level 3 is not known for a recorded market")
    return [
        (trim(price), trim(size), order_id)
        for side, price, size, order_id in state.orders
        if side == wanted
    ]


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise _Refused(400, f"Invalid {name}") from None
