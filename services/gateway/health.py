"""Readiness of a gateway: what it needs, and what it can do without for a while."""

from __future__ import annotations

import time
from typing import Any

from services.common.health import Health


class GatewayHealth(Health):
    """Adds `degraded`: shown at `/readyz`, without making the gateway unready.

    All gateways share the stores; if their absence took every gateway out of the load balancer,
    clients that can be served from the log would be served by nobody.
    """

    def __init__(self) -> None:
        super().__init__("gateway", "broker", "serving")
        self._degraded: dict[str, dict[str, Any]] = {}

    def degraded(self, name: str, reason: str) -> None:
        """Something that is not needed at once does not work."""
        since = self._degraded.get(name, {}).get("since", time.time_ns() // 1000)
        self._degraded[name] = {"reason": reason, "since": since}

    def restored(self, name: str) -> None:
        """It works again."""
        self._degraded.pop(name, None)

    def forgotten(self, name: str) -> None:
        """What this check was about is not needed any more."""
        self._checks.pop(name, None)

    def report(self) -> dict[str, Any]:
        return {**super().report(), "degraded": self._degraded}
