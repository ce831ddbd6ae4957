"""Coinbase Exchange. Pure.

messages.py            its messages as they are decoded
trades_and_tickers.py  what a ticker or a match says
book_changes.py        what a message does to the levels of a book
states.py              whole states: snapshots, and what REST answers
mapper.py              all of it as a `VenueMapper`
"""

from services.normalizer.venues.coinbase.mapper import CoinbaseMapper

__all__ = ["CoinbaseMapper"]
