"""The simulated exchange as one object: start it, talk to it over real sockets, break it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import structlog

from services.common.clock import now_us
from services.common.runtime import serve_http
from tools.simulator.clock import SECOND
from tools.simulator.faults.feed_faults import FaultRequest, MessageFaults
from tools.simulator.market.market import MarketModel, ModelSettings
from tools.simulator.protocol.auth import Credentials
from tools.simulator.protocol.feed import FeedProtocol
from tools.simulator.replay import ReplayMarket, load_capture
from tools.simulator.serving.answers import AnswerFaults
from tools.simulator.serving.hub import Hub
from tools.simulator.serving.pumps import pump_model, pump_replay
from tools.simulator.serving.server import Limits, Surface
from tools.simulator.switches import FaultSwitches
from tools.simulator.venue import ProductState, Venue, online

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExchangeConfig(ModelSettings):
    """How to run it; the defaults are the venue's own limits and a lively market.

    `paced` False stops the market's clock: only `advance` moves it, at once, which makes tests
    independent of time. `credentials` None opens the channels that need a signature to everybody.
    `capture` replays a recording instead of the model, at `speed` times its own pace (0: as fast as
    the clients read), beginning `settle_s` after the last request of the first clients; REST then
    knows what the recording `truth` has, which may be more. `hold` begins `idle`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    paced: bool = True
    start_us: int | None = None
    credentials: Credentials | None = field(default_factory=Credentials)
    compression: bool = True
    limits: Limits = field(default_factory=Limits)
    capture: Path | None = None
    truth: Path | None = None
    speed: float = 1.0
    settle_s: float = 0.25
    hold: bool = False
    faults: FaultRequest | None = None


class SimulatedExchange:
    """A Coinbase Exchange look-alike on one TCP port: WebSocket feed, REST, `/_control`.

    Use as `async with SimulatedExchange(seed=7) as exchange:`. Keyword arguments override fields of
    `config`. Inside the block `ws_url`, `rest_url` and `control` are valid; should the market fail,
    the block is cancelled, and leaving it raises why.

    While `paused` is set, a paced market stands still, its heartbeats included; `advance` moves it.
    While `idle` is set, nothing happens in a paced market or a replay but heartbeats.
    """

    def __init__(self, config: ExchangeConfig | None = None, **overrides: Any) -> None:
        self.config = replace(config or ExchangeConfig(), **overrides)
        self.port = 0
        self.paused = False
        self.idle = self.config.hold
        self.replay: ReplayMarket | None = None
        self._started_at = 0.0

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        self._build()
        self._running = self._serve()
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # What the block raises is the block's own: here it would become a group.
        await self._running.__aexit__(None, None, None)

    @contextlib.asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        config = self.config
        async with serve_http(
            self._surface.application(),
            config.host,
            config.port,
            ws=FeedProtocol,
            ws_per_message_deflate=config.compression,
            ws_max_size=64 * 1024,
            log_level="warning",
            timeout_graceful_shutdown=1,
        ) as self.port:
            self._started_at = asyncio.get_running_loop().time()
            log.info(
                "exchange_listening",
                host=config.host,
                port=self.port,
                ws_url=self.ws_url,
                rest_url=self.rest_url,
                mode=self._mode,
                products=len(online(self.venue.products)),
            )
            if config.faults is not None:
                self.apply(config.faults)
            async with asyncio.TaskGroup() as group:
                cutting = self._switches.disconnect_repeatedly()
                tasks = [group.create_task(cutting, name="simulator:disconnect")]
                if (pump := self._pump()) is not None:
                    tasks.append(group.create_task(pump, name="simulator:pump"))
                yield
                for task in tasks:
                    task.cancel()
            self._switches.end_timed()

    def _pump(self) -> Coroutine[Any, Any, None] | None:
        """What moves the market on with the clock, if anything does."""
        if self.replay is not None:
            speed, settle_s = self.config.speed, self.config.settle_s
            return pump_replay(self.replay, self.hub, speed, settle_s, lambda: self.idle)
        if self.config.paced:
            return pump_model(self.model, self.hub, lambda: self.paused, lambda: self.idle)
        return None

    def _build(self) -> None:
        config = self.config
        self.venue: Venue
        model = None
        if config.capture is not None:
            truth = load_capture(config.truth) if config.truth is not None else None
            self.venue = self.replay = ReplayMarket(load_capture(config.capture), truth)
            log.info("recording_read", **self.replay.progress())
        else:
            start = now_us() if config.start_us is None else config.start_us
            self.venue = self._model = model = MarketModel(config, start)
            model.write_for(lambda channel, name: self.hub.wanted((channel, name)))
        self.hub = Hub(
            MessageFaults(config.seed), AnswerFaults(config.seed), config.limits.max_backlog
        )
        self._surface = Surface(
            self.venue,
            self.hub,
            config.limits,
            config.credentials,
            self.apply,
            self.report,
            self.run_on,
        )
        self._switches = FaultSwitches(self.hub, self._surface, model)

    @property
    def _mode(self) -> str:
        return "replay" if self.replay is not None else "simulate"

    # ------------------------------------------------------------ use

    @property
    def _reachable_host(self) -> str:
        return "127.0.0.1" if self.config.host in ("0.0.0.0", "::") else self.config.host

    @property
    def ws_url(self) -> str:
        return f"ws://{self._reachable_host}:{self.port}/"

    @property
    def rest_url(self) -> str:
        return f"http://{self._reachable_host}:{self.port}"

    @property
    def model(self) -> MarketModel:
        """The simulated market itself; not there when a capture is replayed."""
        if self.replay is not None:
            raise AttributeError("a replayed exchange has no model; use `state`")
        return self._model

    def state(self, product: str) -> ProductState:
        """The true state of a product now, whatever the clients were sent."""
        return self.venue.state(product)

    def advance(self, seconds: float) -> None:
        """Move an unpaced or paused market on and send what happened; clients read it later."""
        self.hub.dispatch(self.model.advance(self.model.now_us + round(seconds * SECOND)))

    def settle(self) -> None:
        """Send the level 2 changes that wait for their batch, so that clients can hold `state`.

        The market must stand still (unpaced, paused or idle) for that to last.
        """
        if self.replay is None:
            self.hub.dispatch(self.model.cut_batches())

    def run_on(self, running: bool) -> None:
        """Let a paced market move on, or be idle with all its changes sent."""
        self.idle = not running
        if self.idle:
            self.settle()

    def control(self, **faults: Any) -> dict[str, Any]:
        """Set faults as `POST /_control/faults` does: `control(drop={"count": 3})`.

        Raises:
            pydantic.ValidationError: no such fault, or a value out of range.
            NotPossible: the market behind it cannot do that.
        """
        return self.apply(FaultRequest.model_validate(faults))

    def apply(self, request: FaultRequest) -> dict[str, Any]:
        """Set faults; returns what is in force now."""
        return self._switches.apply(request)

    def report(self) -> dict[str, Any]:
        """What `GET /_control` answers."""
        products: dict[str, Any] = {}
        for product in online(self.venue.products):
            state = self.venue.state(product, depth=0)
            products[product] = {
                "sequence": state.sequence,
                "last_trade_id": state.last_trade.trade_id if state.last_trade else None,
                "messages": {
                    name: dict(counter)
                    for name, counter in sorted(self.hub.counts[product].items())
                },
            }
        totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for counts in self.hub.counts.values():
            for name, counter in counts.items():
                totals[name].update(counter)
        return {
            "mode": self._mode,
            "seed": self.config.seed,
            "time_us": self.venue.now_us,
            "uptime_s": round(asyncio.get_running_loop().time() - self._started_at, 3),
            "clients": len(self.hub.clients),
            "subscriptions": sum(len(each.subscriptions.pairs()) for each in self.hub.clients),
            "disconnected": self.hub.disconnected,
            "replay": self.replay.progress() if self.replay is not None else None,
            "faults": self._switches.report(),
            "messages": totals,
            "products": products,
            "lost": list(self.hub.lost),
        }
