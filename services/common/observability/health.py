"""`/healthz`, `/readyz`, `/startupz`, `/metrics`, `/info`: the same answers from every service.

Liveness says only that the event loop turns. Readiness is the conjunction of named checks that the
service itself keeps up to date; each failing one is shown with its reason and since when. Started
is a service when each of these checks has held once; it stays so for the process's life.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.clock import now_us
from services.common.errors import BrokerError, StoreError
from services.common.observability.metrics import HealthCollector, Together


@dataclass(frozen=True, slots=True)
class Check:
    """`reason` is None when the check passes. `since`: microseconds since the epoch."""

    reason: str | None
    since: int


class Health:
    """Named readiness checks. A check that was declared and never passed keeps `/readyz` at 503."""

    def __init__(self, service: str, *checks: str) -> None:
        self.service = service
        self.started = now_us()
        self._checks = {name: Check("not checked yet", self.started) for name in checks}
        self._pending = set(checks)
        self._degraded: dict[str, dict[str, Any]] = {}

    def passed(self, name: str) -> None:
        """The check holds now."""
        self._pending.discard(name)
        self._set(name, None)

    def failed(self, name: str, reason: str) -> None:
        """The check does not hold; `reason` is shown to whoever asks."""
        self._set(name, reason)

    def forgotten(self, name: str) -> None:
        """What this check was about is not needed any more."""
        self._checks.pop(name, None)

    def judge(self, name: str, problems: Sequence[str]) -> None:
        """`failed` while there are any problems, else `passed`."""
        if problems:
            self.failed(name, "; ".join(problems))
        else:
            self.passed(name)

    @asynccontextmanager
    async def asking(self, name: str, seconds: float) -> AsyncIterator[None]:
        """`passed` if what the block asks of a dependency is answered within so long."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except (BrokerError, StoreError, TimeoutError) as error:
            self.failed(name, str(error) or f"no answer within {seconds:.0f} s")
        else:
            self.passed(name)

    def degraded(self, name: str, reason: str) -> None:
        """Something is not as it should be, and the service can do without for a while.

        Shown at `/readyz`, which stays as it is.
        """
        since = self._degraded.get(name, {}).get("since", now_us())
        self._degraded[name] = {"reason": reason, "since": since}

    def restored(self, name: str) -> None:
        """It is as it should be again."""
        self._degraded.pop(name, None)

    def tell_hazards(self, name: str, hazards: Sequence[str]) -> None:
        """`degraded` while there are any."""
        if hazards:
            self.degraded(name, "; ".join(hazards))
        else:
            self.restored(name)

    def _set(self, name: str, reason: str | None) -> None:
        held = self._checks.get(name)
        if held is not None and (held.reason is None) == (reason is None):
            since = held.since
        else:
            since = now_us()
        self._checks[name] = Check(reason, since)

    @property
    def checks(self) -> Mapping[str, Check]:
        return self._checks

    @property
    def ready(self) -> bool:
        return all(check.reason is None for check in self._checks.values())

    @property
    def pending(self) -> list[str]:
        """Declared checks that have not held once since the process began."""
        return sorted(self._pending)

    def report(self) -> dict[str, Any]:
        """What `/readyz` answers: every check, with reason and since when."""
        return {
            "ready": self.ready,
            "service": self.service,
            "checks": {
                name: {"ok": check.reason is None, "reason": check.reason, "since": check.since}
                for name, check in self._checks.items()
            },
            "degraded": self._degraded,
        }


class Standstill:
    """Tells work that stands still from work that there is none of. Pure; `now` in seconds."""

    def __init__(self) -> None:
        self._mark: object = None
        self._since: float | None = None

    def seen(self, *, waiting: bool, mark: object, now: float) -> float:
        """For how many seconds something was seen to wait while `mark`, what was done, stood still.

        It begins at the first look that sees something wait: how long nothing was done before says
        nothing, as there may have been nothing to do.
        """
        if not waiting:
            self._since = None
            return 0.0
        if self._since is None or mark != self._mark:
            self._mark, self._since = mark, now
        return now - self._since


def package_version() -> str:
    """The installed version, or `unknown` when run from a bare checkout."""
    try:
        return version("market-data-fanout")
    except PackageNotFoundError:
        return "unknown"


def health_routes(
    health: Health,
    info: Mapping[str, Any] | None,
    registry: CollectorRegistry,
) -> list[BaseRoute]:
    """The routes every service has, to be mounted in its application.

    `/livez` is `/healthz` under the name that says what it is. Both say that the event loop turns,
    by being answered at all: a stuck loop answers nothing, the probe times out, and the watchdog
    (`services.common.observability.event_loop`) has written by then where it hangs.
    """
    exposed = Together(registry, HealthCollector(health))

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"alive": True, "service": health.service})

    async def readyz(_request: Request) -> Response:
        return JSONResponse(health.report(), status_code=200 if health.ready else 503)

    async def startupz(_request: Request) -> Response:
        pending = health.pending
        answer = {"started": not pending, "service": health.service, "pending": pending}
        return JSONResponse(answer, status_code=503 if pending else 200)

    async def metrics(request: Request) -> Response:
        # OpenMetrics, and with it exemplars, for whoever accepts it.
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(exposed), media_type=content_type)

    async def about(_request: Request) -> Response:
        return JSONResponse(
            {
                "service": health.service,
                "version": package_version(),
                "started": health.started,
                **(info or {}),
            }
        )

    return [
        Route("/healthz", healthz),
        Route("/livez", healthz),
        Route("/readyz", readyz),
        Route("/startupz", startupz),
        Route("/metrics", metrics),
        Route("/info", about),
    ]
