"""The simulated exchange as one object: start it, talk to it over real sockets, break it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import structlog

from services.common.runtime import serve_http
from tools.simulator.auth import Credentials
from tools.simulator.clock import SECOND, wall_us
from tools.simulator.faults import Disconnect, FaultRequest, MessageFaults
from tools.simulator.feed_protocol import FeedProtocol
from tools.simulator.hub import Hub
from tools.simulator.market import MarketModel, ModelSettings
from tools.simulator.messages import LEVEL2, LEVEL2_BATCH, MATCHES
from tools.simulator.products import DEFAULT_PRODUCTS
from tools.simulator.replay import ReplayMarket, load_capture
from tools.simulator.server import Limits, Surface
from tools.simulator.venue import ProductState, Venue, online

log = structlog.get_logger(__name__)

# How often the market is moved on; messages of one step are written to a client together.
_STEP_S = 0.005
# Written frames between two looks at whether the clients keep up, when replaying at full speed.
_REPLAY_CHUNK = 64


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """How to run it; the defaults are the venue's own limits and a lively market.

    `paced` False stops the market's clock: only `advance` moves it, at once, which makes tests
    independent of time. `credentials` None opens the channels that need a signature to everybody.
    `capture` replays a recording instead of the model, at `speed` times its own pace (0: as fast as
    the clients read), beginning `settle_s` after the last request of the first clients.
    """

    host: str = "127.0.0.1"
    port: int = 0
    products: Sequence[str] = DEFAULT_PRODUCTS
    seed: int = 1
    rate: float = 200.0
    depth: int = 200
    depths: Mapping[str, int] = field(default_factory=dict)
    paced: bool = True
    start_us: int | None = None
    credentials: Credentials | None = field(default_factory=Credentials)
    compression: bool = True
    limits: Limits = field(default_factory=Limits)
    capture: Path | None = None
    speed: float = 1.0
    settle_s: float = 0.25
    faults: FaultRequest | None = None


class SimulatedExchange:
    """A Coinbase Exchange look-alike on one TCP port: WebSocket feed, REST, `/_control`.

    Use as `async with SimulatedExchange(seed=7) as exchange:`. Keyword arguments override fields of
    `config`. Inside the block `ws_url`, `rest_url` and `control` are valid.
    """

    def __init__(self, config: ExchangeConfig | None = None, **overrides: Any) -> None:
        self.config = replace(config or ExchangeConfig(), **overrides)
        self.port = 0
        self.replay: ReplayMarket | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._disconnect: Disconnect | None = None
        self._disconnect_changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._started_at = 0.0

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One task owns the listener and the pumps, because a fixture may be entered and left in
        # different tasks, which a TaskGroup does not allow. `__aexit__` awaits it.
        self._owner = asyncio.create_task(self._run(started), name="simulated-exchange")
        await asyncio.wait((self._owner, started), return_when=asyncio.FIRST_COMPLETED)
        if self._owner.done():
            await self._owner
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._owner is not None:
            await self._owner

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
                tasks = [group.create_task(self._disconnector(), name="simulator:disconnector")]
                if self.replay is not None:
                    tasks.append(
                        group.create_task(self._pump_replay(self.replay), name="simulator:replay")
                    )
                elif config.paced:
                    tasks.append(group.create_task(self._pump_model(), name="simulator:model"))
                started.set_result(None)
                await self._stop.wait()
                for task in tasks:
                    task.cancel()
            for timer in self._timers.values():
                timer.cancel()

    def _build(self) -> None:
        config = self.config
        venue: Venue
        if config.capture is not None:
            self.replay = ReplayMarket(load_capture(config.capture))
            venue = self.replay
        else:
            start = wall_us() if config.start_us is None else config.start_us
            settings = ModelSettings(
                config.products,
                seed=config.seed,
                rate=config.rate,
                depth=config.depth,
                depths=config.depths,
            )
            self._model = MarketModel(settings, start)
            venue = self._model
        self.venue: Venue = venue
        self.hub = Hub(MessageFaults(config.seed), config.limits.max_backlog)
        self._surface = Surface(
            venue, self.hub, config.limits, config.credentials, self.apply, self.report
        )

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
        """Move an unpaced market on and send what happened. Returns before clients have read it."""
        self._step(self._model.now_us + round(seconds * SECOND))

    def control(self, **faults: Any) -> dict[str, Any]:
        """Set faults as `POST /_control/faults` does: `control(drop={"count": 3})`.

        Raises:
            pydantic.ValidationError: no such fault, or a value out of range.
        """
        return self.apply(FaultRequest.model_validate(faults))

    def apply(self, request: FaultRequest) -> dict[str, Any]:
        """Set faults; returns what is in force now."""
        self.hub.faults.set(request)
        self.hub.set_garbage(request)
        if request.clear:
            self._surface.rest_fault = None
            self._set_disconnect(None)
            for name in ("stall", "refuse", "stale_rest"):
                self._end(name)
        if request.rest is not None:
            self._surface.rest_fault = (request.rest, request.rest.count)
        for name, seconds in (
            ("stall", request.stall_s),
            ("refuse", request.refuse_s),
            ("stale_rest", request.stale_rest_s),
        ):
            if seconds is not None:
                self._begin(name, seconds)
        if request.disconnect is not None:
            self._set_disconnect(request.disconnect)
        log.info("faults_set", **request.model_dump(exclude_defaults=True))
        return self._faults()

    def _begin(self, name: str, seconds: float) -> None:
        self._end(name)
        self._switch(name, on=True)
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(seconds, self._end, name)

    def _end(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
            self._switch(name, on=False)

    def _switch(self, name: str, *, on: bool) -> None:
        match name:
            case "stall":
                self.hub.stalled = on
            case "refuse":
                self._surface.refusing = on
            case "stale_rest":
                if on:
                    self._surface.api.freeze()
                else:
                    self._surface.api.thaw()

    def _set_disconnect(self, disconnect: Disconnect | None) -> None:
        if disconnect is not None and not disconnect.every_s:
            self._disconnect_all(disconnect)
            return
        self._disconnect = disconnect
        self._disconnect_changed.set()

    def _disconnect_all(self, how: Disconnect) -> None:
        for client in list(self.hub.clients):
            if how.code is None:
                client.feed.cut()
            else:
                client.kick(how.code, how.reason)

    def _faults(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        active: dict[str, Any] = self.hub.faults.report()
        for name, timer in self._timers.items():
            active[f"{name}_s"] = round(max(0.0, timer.when() - loop.time()), 3)
        if self._surface.rest_fault is not None:
            fault, left = self._surface.rest_fault
            active["rest"] = {**fault.model_dump(), "left": left}
        if self._disconnect is not None:
            active["disconnect"] = self._disconnect.model_dump()
        return active

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
            "replay": self.replay.progress() if self.replay is not None else None,
            "faults": self._faults(),
            "messages": totals,
            "products": products,
            "lost": list(self.hub.lost),
        }

    # ------------------------------------------------------------ pumps

    def _step(self, to_us: int) -> None:
        self.hub.dispatch(self._model.advance(to_us))

    async def _pump_model(self) -> None:
        loop = asyncio.get_running_loop()
        start_s, start_us = loop.time(), self._model.now_us
        while True:
            await asyncio.sleep(_STEP_S)
            self._step(start_us + round((loop.time() - start_s) * SECOND))

    async def _pump_replay(self, replay: ReplayMarket) -> None:
        await self._first_subscription()
        loop = asyncio.get_running_loop()
        speed = self.config.speed
        start_s, start_us = loop.time(), replay.first_us
        replay.begin()
        while not replay.finished:
            if speed:
                elapsed = (loop.time() - start_s) * speed * SECOND
                self.hub.dispatch(replay.advance(start_us + round(elapsed)))
                await asyncio.sleep(_STEP_S)
            else:
                self.hub.dispatch(replay.take(_REPLAY_CHUNK))
                await self.hub.drained()
                # Lets connections and requests in between two chunks.
                await asyncio.sleep(0)
        log.info("replay_finished", frames=replay.position)
        # The market is quiet from here on: only heartbeats go on, with the last values.
        start_s, start_us = loop.time(), replay.now_us
        while True:
            await asyncio.sleep(_STEP_S)
            elapsed = (loop.time() - start_s) * SECOND
            self.hub.dispatch(replay.beat(start_us + round(elapsed)))

    async def _first_subscription(self) -> None:
        """Wait for a client of matches or level 2, and until no more requests come in."""
        products = online(self.venue.products)
        while not any(
            self.hub.wanted((channel, product))
            for channel in (MATCHES, LEVEL2_BATCH, LEVEL2)
            for product in products
        ):
            self.hub.subscribed.clear()
            await self.hub.subscribed.wait()
        while True:
            self.hub.subscribed.clear()
            try:
                async with asyncio.timeout(self.config.settle_s):
                    await self.hub.subscribed.wait()
            except TimeoutError:
                return

    async def _disconnector(self) -> None:
        while True:
            every = self._disconnect.every_s if self._disconnect is not None else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._disconnect_changed.wait()
            if self._disconnect_changed.is_set():
                self._disconnect_changed.clear()
            elif self._disconnect is not None:
                self._disconnect_all(self._disconnect)
