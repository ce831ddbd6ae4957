"""Faults put into force: where each takes effect and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from tools.simulator.clock import SECOND
from tools.simulator.faults.feed_faults import Disconnect, FaultRequest, NotPossible
from tools.simulator.market.market import MarketModel
from tools.simulator.serving.hub import Hub
from tools.simulator.serving.server import Surface

log = structlog.get_logger(__name__)


class FaultSwitches:
    """Faults on `hub` (the feed), `surface` (REST, new connections) and `market` (None: a replay).

    Those given in seconds end by themselves. `disconnect_repeatedly` has to run for `every_s`.
    """

    def __init__(self, hub: Hub, surface: Surface, market: MarketModel | None) -> None:
        self._hub = hub
        self._market = market
        self._surface = surface
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._disconnect: Disconnect | None = None
        self._disconnect_changed = asyncio.Event()

    def apply(self, request: FaultRequest) -> dict[str, Any]:
        """Put a request into force; returns everything that is in force now.

        Raises:
            NotPossible: it asks something of the market that a recording, or another list of
                products, does not allow.
        """
        self._check_market(request)
        self._hub.faults.set(request)
        self._hub.answers.set(request)
        self._hub.set_garbage(request)
        if request.clear:
            self._surface.rest_fault = None
            self._set_disconnect(None)
            self.end_timed()
        if request.rest is not None:
            self._surface.rest_fault = (request.rest, request.rest.count)
        for name in ("stall", "refuse", "stale_rest"):
            if (seconds := getattr(request, f"{name}_s")) is not None:
                self._begin(name, seconds)
        if request.disconnect is not None:
            self._set_disconnect(request.disconnect)
        self._change_market(request)
        log.info("faults_set", **request.model_dump(exclude_defaults=True))
        return self.report()

    def _check_market(self, request: FaultRequest) -> None:
        auctioned = request.auction.products if request.auction is not None else []
        named = [*auctioned, *request.delist, *request.renumber]
        if named and self._market is None:
            raise NotPossible("a recording cannot be auctioned, delisted or renumbered")
        unknown = [name for name in named if self._market and not self._market.has_book(name)]
        if unknown:
            raise NotPossible(f"not traded here: {', '.join(unknown)}")

    def _change_market(self, request: FaultRequest) -> None:
        market = self._market
        if market is None:
            return
        if request.clear:
            self._hub.dispatch(market.end_auctions())
        if request.auction is not None:
            market.begin_auction(request.auction.products, round(request.auction.for_s * SECOND))
        if request.delist:
            self._hub.dispatch(market.delist(request.delist))
        market.renumber(request.renumber)

    def report(self) -> dict[str, Any]:
        """What is in force, with what is left of it."""
        loop = asyncio.get_running_loop()
        active: dict[str, Any] = self._hub.faults.report()
        for name, timer in self._timers.items():
            active[f"{name}_s"] = round(max(0.0, timer.when() - loop.time()), 3)
        if self._surface.rest_fault is not None:
            fault, left = self._surface.rest_fault
            active["rest"] = {**fault.model_dump(), "left": left}
        if self._disconnect is not None:
            active["disconnect"] = self._disconnect.model_dump()
        answers = self._hub.answers.report()
        if answers:
            active["answers"] = answers
        garbage = self._hub.garbage
        if garbage is not None:
            active["garbage"] = {"kind": garbage[0], "probability": garbage[1]}
        return active

    def end_timed(self) -> None:
        """End stall, refusal and stale REST now."""
        for name in list(self._timers):
            self._end(name)

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
                self._hub.stalled = on
            case "refuse":
                self._surface.refusing = on
            case "stale_rest" if on:
                self._surface.api.freeze()
            case "stale_rest":
                self._surface.api.thaw()

    def _set_disconnect(self, disconnect: Disconnect | None) -> None:
        if disconnect is not None and not disconnect.every_s:
            self._hub.disconnect_all(disconnect.code, disconnect.reason)
            return
        self._disconnect = disconnect
        self._disconnect_changed.set()

    async def disconnect_repeatedly(self) -> None:
        """Disconnect everybody each `every_s` seconds, whenever that is asked for. Never ends."""
        while True:
            every = self._disconnect.every_s if self._disconnect is not None else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._disconnect_changed.wait()
            if self._disconnect_changed.is_set():
                self._disconnect_changed.clear()
            elif self._disconnect is not None:
                self._hub.disconnect_all(self._disconnect.code, self._disconnect.reason)
