"""A small subscriber of the gateway that proves what it received: no hole, no repetition."""

from tools.subscriber.chain import ChainChecker, ChainCounts, Verdict
from tools.subscriber.client import Subscriber
from tools.subscriber.latency import LatencyHistogram
from tools.subscriber.wants import Want

__all__ = ["ChainChecker", "ChainCounts", "LatencyHistogram", "Subscriber", "Verdict", "Want"]
