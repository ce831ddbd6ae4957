"""A lane takes one stream from venue messages to raw records. Pure: fed and asked, never waiting.

What a lane cannot decide by itself (something is missing, a book is not to be trusted) it asks
for by calling `ask`; the healer answers by feeding it.
"""

from services.ingestor.streams.book import BookLane
from services.ingestor.streams.events import LaneEvents
from services.ingestor.streams.orders import OrdersLane
from services.ingestor.streams.product_streams import Desk, Want
from services.ingestor.streams.ticker import TickerLane
from services.ingestor.streams.trades import TradesLane

__all__ = ["BookLane", "Desk", "LaneEvents", "OrdersLane", "TickerLane", "TradesLane", "Want"]
