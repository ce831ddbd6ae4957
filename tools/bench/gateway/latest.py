"""What `latest` mode costs: a tick that is owed, and the message that stands for several."""

from __future__ import annotations

from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.conflation import Conflation
from services.gateway.testing import Market
from tools.bench.registry import Run, bench

_CLIENTS = 1000
_MERGED = 10


@bench("latest")
async def latest(run: Run) -> None:
    """A thousand clients that take one message for ten ticks; without sockets."""
    market = Market(None, padding=40)
    first = StreamRecord(market.tick().payload)
    clients = [Conflation(first.position, 1.0) for _ in range(_CLIENTS)]
    for number in range(run.rounds):
        ticks = [StreamRecord(market.tick().payload) for _ in range(_MERGED)]
        with run.measure("a tick owed to a client", unit="tick") as sample:
            sample.count = _CLIENTS * _MERGED
            for tick in ticks:
                for client in clients:
                    client.add(tick)
        with run.measure(
            f"{_MERGED} ticks merged into a client's message", unit="message"
        ) as sample:
            sample.count = _CLIENTS
            for client in clients:
                client.drain(10.0 * (number + 1))
