"""A product's streams, from venue messages to raw records. Pure: fed and asked, never waiting.

What a stream cannot decide by itself (something is missing, a book is not to be trusted) it asks
for by calling `ask`; the healer answers by feeding it.
"""

from services.ingestor.streams.book import BookStream
from services.ingestor.streams.orders import OrdersStream
from services.ingestor.streams.product_streams import ProductStreams, Want
from services.ingestor.streams.stream import StreamEvents
from services.ingestor.streams.ticker import TickerStream
from services.ingestor.streams.trades import TradesStream

__all__ = [
    "BookStream",
    "OrdersStream",
    "ProductStreams",
    "StreamEvents",
    "TickerStream",
    "TradesStream",
    "Want",
]
