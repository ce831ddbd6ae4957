"""The way to a store and back: latency, what is wrong with it now, and what the SDK makes of that.

A request that has left is the network's: it is done where its sender was killed or gave up, and
later than whatever was sent behind it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from services.common.stores.aws import Limits
from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import running_process
from tests.simulation.network import Way
from tests.simulation.plan import StoreFaultKind
from tests.simulation.stores.answers import refusal

# How long the service itself takes for most requests, in seconds.
_WORK_S = (0.002, 0.03)
# How late a request may be done while the service is slow: longer than anybody waits for it.
_SLOW_S = 25.0
_AGAIN_S = 0.2
# The longest pause of the SDK before it asks again.
_LONGEST_PAUSE_S = 20.0
_THROTTLED = {
    "dynamodb": (400, "ProvisionedThroughputExceededException"),
    "s3": (503, "SlowDown"),
}
_BROKEN = {"dynamodb": (500, "InternalServerError"), "s3": (500, "InternalError")}


class Remote:
    """A store on a machine of its own, with `model` as what it knows.

    Attributes:
        wrong: which faults are on, and how many times over.
        met: how many requests each fault was done to.
    """

    def __init__(self, name: str, model: Any, loop: SimulatedLoop, chance: Random) -> None:
        self.name = name
        self.model = model
        self.wrong: Counter[StoreFaultKind] = Counter()
        self.met: Counter[StoreFaultKind] = Counter()
        self._loop = loop
        self._chance = chance
        self._machine = loop.network.machine(name)
        self._url = f"https://{name}"

    @asynccontextmanager
    async def client(self, limits: Limits) -> AsyncIterator[Any]:
        """What the SDK opens, for the running process."""
        yield _Client(self, limits)

    async def call(self, limits: Limits, operation: str, asked: dict[str, Any]) -> Any:
        """Ask as often as the SDK does."""
        for attempt in range(1, limits.attempts + 1):
            try:
                return await self._once(limits, operation, asked)
            except (ClientError, HTTPClientError) as error:
                if attempt == limits.attempts or not _passing(error):
                    raise
            await asyncio.sleep(self._chance.random() * min(2.0**attempt, _LONGEST_PAUSE_S))
        raise AssertionError("a client asks at least once")

    async def _once(self, limits: Limits, operation: str, asked: dict[str, Any]) -> Any:
        here, network = running_process().machine, self._loop.network
        out, back = network.way(here, self._machine), network.way(self._machine, here)
        if (out.blocked or back.blocked) and self._chance.random() < 0.5:
            # No connection was open; else what is sent over it arrives once it can.
            await asyncio.sleep(limits.connect_s)
            raise ConnectTimeoutError(endpoint_url=self._url)
        answer: asyncio.Future[Any] = self._loop.create_future()
        arrive = partial(self._arrive, back, operation, asked, answer)
        self._send(out, network.under_way_ns(out) / 1e9, arrive)
        try:
            async with asyncio.timeout(limits.read_s):
                return await answer
        except TimeoutError:
            raise ReadTimeoutError(endpoint_url=self._url) from None

    def _send(self, way: Way, delay_s: float, then: Callable[[], None]) -> None:
        """Do what follows when something sent now is through, whoever runs by then."""

        def through() -> None:
            if way.blocked:
                self._send(way, _AGAIN_S, then)
            else:
                then()

        self._loop.call_later(delay_s, through, context=self._loop.own_context)

    def _arrive(
        self, back: Way, operation: str, asked: dict[str, Any], answer: asyncio.Future[Any]
    ) -> None:
        work_s = self._chance.uniform(*_WORK_S)
        if self.wrong["slow"] and self._meets("slow"):
            work_s += self._chance.uniform(0.0, _SLOW_S)
        do = partial(self._do, back, operation, asked, answer)
        self._loop.call_later(work_s, do, context=self._loop.own_context)

    def _do(
        self, back: Way, operation: str, asked: dict[str, Any], answer: asyncio.Future[Any]
    ) -> None:
        if self.wrong["silent"] and self._meets("silent", 1.0):
            return
        result, error = None, self._refused(operation)
        if error is None:
            try:
                result = getattr(self.model, operation)(**asked)
            except ClientError as refused:
                error = refused
            if self.wrong["lost"] and self._meets("lost"):
                error = ConnectionClosedError(endpoint_url=self._url)
            elif self.wrong["error"] and self._meets("error", 0.3):
                # It was done nevertheless.
                error = self._failure(_BROKEN, operation)
        delay_s = self._loop.network.under_way_ns(back) / 1e9
        self._send(back, delay_s, partial(_answer, answer, result, error))

    def _refused(self, operation: str) -> Exception | None:
        """Why it is not done, if it is not."""
        if self.wrong["away"] and self._meets("away", 1.0):
            return EndpointConnectionError(endpoint_url=self._url)
        if self.wrong["throttle"] and self._meets("throttle", 0.7):
            return self._failure(_THROTTLED, operation)
        if self.wrong["error"] and self._meets("error", 0.3):
            return self._failure(_BROKEN, operation)
        return None

    def _failure(self, of: dict[str, tuple[int, str]], operation: str) -> ClientError:
        status, code = of[self.name]
        return refusal(operation, status, code, "by the plan")

    def _meets(self, kind: StoreFaultKind, share: float = 0.5) -> bool:
        met = self._chance.random() < share
        self.met[kind] += met
        return met


class _Client:
    def __init__(self, remote: Remote, limits: Limits) -> None:
        self._remote = remote
        self._limits = limits

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        async def call(**asked: Any) -> Any:
            return await self._remote.call(self._limits, operation, asked)

        return call


def _answer(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _passing(error: Exception) -> bool:
    """Whether the SDK asks again after it."""
    if not isinstance(error, ClientError):
        return True
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status in (500, 502, 503, 504) or code in ("ProvisionedThroughputExceededException",)
