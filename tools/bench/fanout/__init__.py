"""Fan-out to many WebSockets, beside the limit and the usual ways."""

from tools.bench.fanout.cases import fanout

__all__ = ["fanout"]
