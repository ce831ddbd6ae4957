"""`python -m tools.bench.fanout.gateway_server CREDITS TICKS`: the gateway, fed in its process.

As `python -m services.gateway` composes it, but on a memory broker with a publisher beside it and
without stores: tail, replica, window, hub, outboxes, sockets, heartbeats and metrics all run. What
is left out is receiving from a broker over a socket; `gateway_nats` of the benchmark has that too.
"""

from __future__ import annotations

import sys
from itertools import count

from services.common.runtime import Stop, run_service
from services.common.settings import load_or_exit
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.specs import log_specs
from services.gateway.app import serve
from services.gateway.lifecycle import Gateway
from services.gateway.metrics import Metrics
from services.gateway.settings import GatewaySettings
from tools.bench.fanout.ticks import FIRST, on_credits, record


def main(pipe: int, ticks: int) -> int:
    settings = load_or_exit(GatewaySettings)

    async def run(stop: Stop) -> None:
        broker = MemoryBroker()
        gateway = Gateway(settings, broker, log_specs(settings), Metrics())
        async with serve(gateway) as port:
            await gateway.ready.wait()
            publisher = await broker.publisher()
            # The stream exists before anyone asks for it.
            await publisher.send(record(FIRST - 1, settings.shard_count))
            await publisher.flush()
            seqs = count(FIRST)

            def flush() -> None:
                for _ in range(ticks):
                    publisher.offer(record(next(seqs), settings.shard_count))

            on_credits(pipe, flush, lambda: stop.request("the sink is done"))
            print(port, flush=True)
            await stop.wait()

    return run_service("gateway", settings, run)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
