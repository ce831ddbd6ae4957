"""A small subscriber of the gateway that proves what it received: no hole, no repetition."""

from tools.subscriber.chain import ChainChecker, ChainCounts, Verdict
from tools.subscriber.client import Subscriber, Want
from tools.subscriber.latency import LatencyHistogram

__all__ = ["ChainChecker", "ChainCounts", "LatencyHistogram", "Subscriber", "Verdict", "Want"]
