"""Readiness of a gateway: what it needs, and what it can do without for a while."""

from __future__ import annotations

from services.common.observability.health import Health


class GatewayHealth(Health):
    """What stores cannot do is `degraded`, and does not make the gateway unready.

    All gateways share the stores; if their absence took every gateway out of the load balancer,
    clients that can be served from the log would be served by nobody.
    """

    def __init__(self) -> None:
        super().__init__("gateway", "broker", "serving")

    def forgotten(self, name: str) -> None:
        """What this check was about is not needed any more."""
        self._checks.pop(name, None)
