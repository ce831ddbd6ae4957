"""A lane takes one stream from venue messages to raw records. Pure: fed and asked, never waiting.

What a lane cannot decide by itself (something is missing, a book is not to be trusted) it asks
for by calling `ask`; the healer answers by feeding it.
"""

from services.ingestor.lanes.book import BookLane
from services.ingestor.lanes.desk import Desk, Want
from services.ingestor.lanes.events import LaneEvents
from services.ingestor.lanes.orders import OrdersLane
from services.ingestor.lanes.ticker import TickerLane
from services.ingestor.lanes.trades import TradesLane

__all__ = ["BookLane", "Desk", "LaneEvents", "OrdersLane", "TickerLane", "TradesLane", "Want"]
