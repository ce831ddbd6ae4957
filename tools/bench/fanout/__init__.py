"""Fan-out to many WebSockets, beside the limit and the usual ways."""

from tools.bench.fanout import tables
from tools.bench.fanout.cases import fanout

__all__ = ["fanout", "tables"]
