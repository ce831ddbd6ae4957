"""A simulated Coinbase Exchange: WebSocket feed, REST, faults on demand, capture replay.

Production code never imports this package; tests and the local stack do.
"""

from tools.simulator.exchange import ExchangeConfig, SimulatedExchange
from tools.simulator.protocol.auth import Credentials
from tools.simulator.serving.server import Limits

__all__ = ["Credentials", "ExchangeConfig", "Limits", "SimulatedExchange"]
