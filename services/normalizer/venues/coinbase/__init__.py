"""Coinbase Exchange's messages in the platform's words. Pure.

messages.py            its messages as they are decoded
trades_and_tickers.py  what a ticker or a match says
book_changes.py        what a message does to the levels of a book
states.py              whole states: snapshots, and what REST answers

Sides: a `ticker` names the taker's side, a `match` and a REST trade name the maker's, which is the
other one. Prices and sizes stay the text the venue sent. Where the venue gives no usable time the
receive time stands in.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.common.subjects import StreamKey
from services.normalizer.venues.coinbase.book_changes import (
    map_changes,
    map_order,
    untouched_changes,
)
from services.normalizer.venues.coinbase.messages import (
    MatchMessage,
    TickerMessage,
    UntouchedL2Update,
)
from services.normalizer.venues.coinbase.states import book_state, ticker_state, trades_state
from services.normalizer.venues.coinbase.trades_and_tickers import (
    decode_ticker,
    match_fields,
    read_ticker,
    ticker_fields,
)
from services.normalizer.venues.mapping import FastMapping, Mapped, MappedState, Unmappable, decode


class CoinbaseMapper:
    """See `VenueMapper`."""

    def __init__(self) -> None:
        self.fast_path: Mapping[str, FastMapping] = {
            "book": FastMapping(UntouchedL2Update, untouched_changes),
            "trades": FastMapping(MatchMessage, match_fields),
            "ticker": FastMapping(TickerMessage, ticker_fields),
        }

    def fields(
        self,
        key: StreamKey,
        body: bytes,
        ts_recv: int,
        changes: list[tuple[str, str, str]] | None = None,
    ) -> Mapped:
        if key.channel == "book":
            if changes is not None:
                return map_order(key, body, ts_recv, changes)
            return map_changes(key, body, ts_recv)
        if key.channel == "trades":
            return Mapped(*match_fields(key, decode(MatchMessage, body), ts_recv))
        if key.channel == "ticker":
            return read_ticker(key, decode_ticker(TickerMessage, body), ts_recv)
        raise Unmappable("unknown_channel", key.channel)

    def state(self, key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
        if key.channel == "book":
            return book_state(key, body, ts_recv)
        if key.channel == "trades":
            return trades_state(body, ts_recv)
        if key.channel == "ticker":
            return ticker_state(key, body, ts_recv)
        raise Unmappable("unknown_channel", key.channel)
