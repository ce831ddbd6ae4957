"""`/healthz`, `/readyz`, `/metrics`, `/info`: the same four answers from every service.

Liveness says only that the event loop turns. Readiness is the conjunction of named checks that the
service itself keeps up to date; each failing one is shown with its reason and since when.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route


@dataclass(frozen=True, slots=True)
class Check:
    """`reason` is None when the check passes. `since`: microseconds since the epoch."""

    reason: str | None
    since: int


class Health:
    """Named readiness checks. A check that was declared and never passed keeps `/readyz` at 503."""

    def __init__(self, service: str, *checks: str) -> None:
        self.service = service
        self.started = time.time_ns() // 1000
        self._checks = {name: Check("not checked yet", self.started) for name in checks}

    def passed(self, name: str) -> None:
        """The check holds now."""
        self._set(name, None)

    def failed(self, name: str, reason: str) -> None:
        """The check does not hold; `reason` is shown to whoever asks."""
        self._set(name, reason)

    def _set(self, name: str, reason: str | None) -> None:
        held = self._checks.get(name)
        if held is not None and (held.reason is None) == (reason is None):
            since = held.since
        else:
            since = time.time_ns() // 1000
        self._checks[name] = Check(reason, since)

    @property
    def ready(self) -> bool:
        return all(check.reason is None for check in self._checks.values())

    def report(self) -> dict[str, Any]:
        """What `/readyz` answers: every check, with reason and since when."""
        return {
            "ready": self.ready,
            "service": self.service,
            "checks": {
                name: {"ok": check.reason is None, "reason": check.reason, "since": check.since}
                for name, check in self._checks.items()
            },
        }


def package_version() -> str:
    """The installed version, or `unknown` when run from a bare checkout."""
    try:
        return version("market-data-fanout")
    except PackageNotFoundError:
        return "unknown"


def health_routes(
    health: Health,
    info: Mapping[str, Any] | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> list[BaseRoute]:
    """The four routes, to be mounted in the service's application."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"alive": True, "service": health.service})

    async def readyz(_request: Request) -> Response:
        return JSONResponse(health.report(), status_code=200 if health.ready else 503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

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
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/info", about),
    ]
