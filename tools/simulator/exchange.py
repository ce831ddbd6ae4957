"""The simulated exchange as one object: start it, talk to it over real sockets, break it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import structlog

from services.common.runtime import serve_http
from tools.simulator.clock import SECOND, wall_us
from tools.simulator.faults.feed_faults import FaultRequest, MessageFaults
from tools.simulator.market.market import MarketModel, ModelSettings
from tools.simulator.market.products import DEFAULT_PRODUCTS
from tools.simulator.market.traffic import PLAIN, Traffic
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
class ExchangeConfig:
    """How to run it; the defaults are the venue's own limits and a lively market.

    `depth` None gives each product the levels it has on the venue. `untraded` products have no
    orders and no trades. `paced` False stops the market's clock: only
    `advance` moves it, at once, which makes tests independent of time. `credentials` None opens the
    channels that need a signature to everybody. `capture` replays a recording instead of the model,
    at `speed` times its own pace (0: as fast as the clients read), beginning `settle_s` after the
    last request of the first clients; REST then knows what the recording `truth` has, which may be
    more. `hold` begins `idle`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    products: Sequence[str] = DEFAULT_PRODUCTS
    seed: int = 1
    rate: float = 200.0
    depth: int | None = 200
    depths: Mapping[str, int] = field(default_factory=dict)
    untraded: Collection[str] = ()
    traffic: Traffic = PLAIN
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
    `config`. Inside the block `ws_url`, `rest_url` and `control` are valid.

    While `paused` is set, a paced market stands still, its heartbeats included; `advance` moves it.
    While `idle` is set, nothing happens in a paced market or a replay but heartbeats.
    """

    def __init__(self, config: ExchangeConfig | None = None, **overrides: Any) -> None:
        self.config = replace(config or ExchangeConfig(), **overrides)
        self.port = 0
        self.paused = False
        self.idle = self.config.hold
        self.replay: ReplayMarket | None = None
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._started_at = 0.0

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One task owns the listener and the pumps, because a fixture may be entered and left in
        # different tasks, which a TaskGroup does not allow. `__aexit__` awaits it.
        self._owner = asyncio.create_task(self._run(started), name="simulated-exchange")
        try:
            await asyncio.wait((self._owner, started), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._owner.cancel()
            raise
        if self._owner.done():
            await self._owner
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._owner is not None:
            await self._owner

    async def ended(self) -> None:
        """Wait until it has stopped by itself, which means a failure that leaving the block raises.

        A server waits for this beside its stop signal; a test has no need to.
        """
        if self._owner is not None:
            await asyncio.wait((self._owner,))

    async def _run(self, started: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        config = self.config
        self._build()
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
            self._started_at = loop.time()
            self._log_listening()
            if config.faults is not None:
                self.apply(config.faults)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._switches.disconnect_repeatedly(), name="simulator:disconnect"
                    )
                ]
                pump = self._pump()
                if pump is not None:
                    tasks.append(group.create_task(pump, name="simulator:pump"))
                started.set_result(None)
                await self._stop.wait()
                for task in tasks:
                    task.cancel()
            self._switches.end_timed()

    def _pump(self) -> Coroutine[Any, Any, None] | None:
        if self.replay is not None:
            speed, settle_s = self.config.speed, self.config.settle_s
            return pump_replay(self.replay, self.hub, speed, settle_s, lambda: self.idle)
        if not self.config.paced:
            return None
        return pump_model(self.model, self.hub, lambda: self.paused, lambda: self.idle)

    def _build(self) -> None:
        config = self.config
        venue: Venue
        if config.capture is not None:
            truth = load_capture(config.truth) if config.truth is not None else None
            self.replay = ReplayMarket(load_capture(config.capture), truth)
            log.info("recording_read", **self.replay.progress())
            venue = self.replay
        else:
            start = wall_us() if config.start_us is None else config.start_us
            settings = ModelSettings(
                config.products,
                seed=config.seed,
                rate=config.rate,
                depth=config.depth,
                depths=config.depths,
                untraded=config.untraded,
                traffic=config.traffic,
            )
            self._model = MarketModel(settings, start)
            venue = self._model
        self.venue: Venue = venue
        self.hub = Hub(
            MessageFaults(config.seed), AnswerFaults(config.seed), config.limits.max_backlog
        )
        self._surface = Surface(
            venue,
            self.hub,
            config.limits,
            config.credentials,
            self.apply,
            self.report,
            self.run_on,
        )
        if isinstance(venue, MarketModel):
            venue.write_for(lambda channel, name: self.hub.wanted((channel, name)))
        market = venue if isinstance(venue, MarketModel) else None
        self._switches = FaultSwitches(self.hub, self._surface, market)

    def _log_listening(self) -> None:
        log.info(
            "exchange_listening",
            host=self.config.host,
            port=self.port,
            ws_url=self.ws_url,
            rest_url=self.rest_url,
            mode="replay" if self.replay is not None else "simulate",
            products=len(online(self.venue.products)),
        )

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
        totals: dict[str, dict[str, int]] = {}
        for product in online(self.venue.products):
            state = self.venue.state(product, depth=0)
            counts = self.hub.counts.get(product, {})
            products[product] = {
                "sequence": state.sequence,
                "last_trade_id": state.last_trade.trade_id if state.last_trade else None,
                "messages": {name: dict(counter) for name, counter in sorted(counts.items())},
            }
        for counts in self.hub.counts.values():
            for name, counter in counts.items():
                total = totals.setdefault(name, {})
                for what, amount in counter.items():
                    total[what] = total.get(what, 0) + amount
        return {
            "mode": "replay" if self.replay is not None else "simulate",
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
