"""`/readyz`, `/startupz`, `/metrics` of a gateway of several processes, whichever is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Self

import msgspec
from prometheus_client.core import Exemplar, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from services.common.observability.health import Health, package_version
from services.gateway.workers.channel import ChannelDown

METRICS_PATH = "/metrics"
# Asked with the path and the `Accept` header; answers a `Reply`'s fields.
Ask = Callable[[tuple[str, str]], Awaitable[Any]]


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes

    @classmethod
    def of_json(cls, body: Any, *, good: bool) -> Self:
        return cls(200 if good else 503, "application/json", msgspec.json.encode(body))

    @classmethod
    def of_metrics(cls, collector: Collector, accept: str) -> Self:
        # OpenMetrics, and with it exemplars, for whoever accepts it.
        encode, content_type = choose_encoder(accept)
        return cls(200, content_type, encode(collector))


async def all_ready(ask: Ask) -> bool:
    """Whether `/readyz` of all processes says yes."""
    try:
        return Reply(*await ask(("/readyz", ""))).status == HTTPStatus.OK
    except ChannelDown:
        return False


def _unanswered(reason: str) -> Response:
    """In the form of a report, as whoever asks for readiness reads one."""
    health = Health("gateway")
    health.failed("supervisor", reason)
    body = {**health.report(), "started": False, "pending": ["supervisor"]}
    return JSONResponse(body, status_code=503)


def routes(ask: Ask, info: Callable[[], Mapping[str, Any]]) -> list[BaseRoute]:
    """The routes every service has; what is about all processes is asked for."""

    async def alive(_request: Request) -> Response:
        return JSONResponse({"alive": True, "service": "gateway"})

    async def asked(request: Request) -> Response:
        try:
            answer = await ask((request.url.path, request.headers.get("accept", "")))
        except ChannelDown as error:
            return _unanswered(str(error))
        reply = Reply(*answer)
        return Response(reply.body, reply.status, media_type=reply.content_type)

    async def about(_request: Request) -> Response:
        return JSONResponse({"version": package_version(), **info()})

    return [
        Route("/healthz", alive),
        Route("/livez", alive),
        Route("/readyz", asked),
        Route("/startupz", asked),
        Route(METRICS_PATH, asked),
        Route("/info", about),
    ]


# A family: its name, documentation, type and unit, and its samples' fields.
Family = tuple[str, str, str, str, Sequence[Sequence[Any]]]


def exported_families(collector: Collector) -> list[Family]:
    """A process's metrics, as they are told to another process."""
    return [
        (family.name, family.documentation, family.type, family.unit, family.samples)
        for family in collector.collect()
    ]


@dataclass
class MergedMetrics(Collector):
    """The metrics of several processes; each sample says by `worker` whose it is."""

    told: Mapping[str, Iterable[Family]]  # what `exported_families` gave, by worker
    own: Collector  # of the process that asks; they are shown as they are

    def collect(self) -> Iterator[Metric]:
        found = {family.name: family for family in self.own.collect()}
        for worker, told in self.told.items():
            for name, about, kind, unit, samples in told:
                family = found.get(name)
                if family is None:
                    family = found[name] = Metric(name, about, kind, unit)
                for sample, labels, value, _time, exemplar, *_ in samples:
                    told_with = None if exemplar is None else Exemplar(*exemplar)
                    family.add_sample(sample, {**labels, "worker": worker}, value, None, told_with)
        yield from found.values()


def merged_degradations(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What any of them does without: since the first of them does."""
    found: dict[str, Any] = {}
    for report in reports:
        for name, state in report.get("degraded", {}).items():
            if name not in found or state["since"] < found[name]["since"]:
                found[name] = state
    return found


def failing_checks(report: Mapping[str, Any]) -> str | None:
    """Why the process with this `/readyz` is not ready; None: it is."""
    found = [
        f"{name}: {check['reason']}" for name, check in report["checks"].items() if not check["ok"]
    ]
    return "; ".join(found) or None
