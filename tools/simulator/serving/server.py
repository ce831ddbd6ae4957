"""The HTTP and WebSocket surface of the simulated exchange: one ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.common.resilience import TokenBucket
from services.common.wire import UNREADABLE
from tools.simulator.faults.feed_faults import (
    FaultRequest,
    NotPossible,
    RestAnswerKind,
    RestFault,
    request_of,
)
from tools.simulator.protocol.auth import Credentials
from tools.simulator.protocol.feed import EXTENSION, FeedProtocol
from tools.simulator.protocol.messages import encode
from tools.simulator.protocol.subscriptions import ClientSubscriptions, Pair
from tools.simulator.serving.answers import Plan
from tools.simulator.serving.hub import Client, Hub, Later
from tools.simulator.serving.rest import EdgeCache, RestAnswer, RestApi
from tools.simulator.venue import Venue, greeting, online

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the venue enforces. `rest_rate` 0 turns the REST limiter off."""

    subscribe_deadline_s: float = 5.0
    rest_rate: float = 10.0
    rest_burst: int = 15
    rest_cache: bool = True
    max_backlog: int = 32 * 1024 * 1024


class FlowRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /_control/flow`: whether the market moves on."""

    running: bool


@dataclass
class Surface:
    """Requests and connections; what they ask is answered from `venue`, `hub` and `control`."""

    venue: Venue
    hub: Hub
    limits: Limits
    credentials: Credentials | None
    control: Callable[[FaultRequest], dict[str, Any]]
    report: Callable[[], dict[str, Any]]
    flow: Callable[[bool], None]
    rest_fault: tuple[RestFault, int] | None = None
    refusing: bool = False
    _cache: EdgeCache = field(default_factory=EdgeCache)
    _buckets: dict[str, TokenBucket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.api = RestApi(self.venue)

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/_control", self._get_control),
                Route("/_control/faults", self._post_faults, methods=["POST"]),
                Route("/_control/flow", self._post_flow, methods=["POST"]),
                Route("/_control/model/{product}", self._get_model),
                Route("/{path:path}", self._rest),
                WebSocketRoute("/{path:path}", self._feed),
            ]
        )

    # ------------------------------------------------------------ feed

    async def _feed(self, socket: WebSocket) -> None:
        if self.refusing:
            await socket.send_denial_response(
                JSONResponse({"message": "Service Unavailable"}, status_code=503)
            )
            return
        await socket.accept()
        feed = socket.scope["extensions"][EXTENSION]
        assert isinstance(feed, FeedProtocol)
        subscriptions = ClientSubscriptions(self._is_tradable, self.credentials)
        client = Client(feed, subscriptions)
        self.hub.add(client)
        try:
            await self._serve(socket, client)
        except WebSocketDisconnect:
            pass
        finally:
            self.hub.remove(client)

    def _is_tradable(self, product: str) -> bool:
        return product in online(self.venue.products)

    async def _serve(self, socket: WebSocket, client: Client) -> None:
        loop = asyncio.get_running_loop()
        deadline: float | None = loop.time() + self.limits.subscribe_deadline_s
        while client.kicked is None:
            try:
                async with asyncio.timeout_at(deadline) as client.waiting:
                    event = await socket.receive()
            except TimeoutError:
                if client.kicked is None:
                    client.kicked = (1008, "no subscription within the time allowed")
                break
            if event["type"] == "websocket.disconnect":
                return
            self._on_message(client, event.get("text") or event.get("bytes") or "")
            if client.subscriptions:
                deadline = None
        await socket.close(*client.kicked)

    def _on_message(self, client: Client, text: str | bytes) -> None:
        plan = self.hub.answers.plan(
            client.subscriptions, client.subscriptions.handle(text, time.time())
        )
        answer = plan.answer
        self.hub.leave(client, answer.removed)
        if not plan.ack_after:
            self._acknowledge(client, plan)
        for pair in answer.added:
            if pair in plan.late:
                client.later.append(
                    Later(plan.late_by, pair[1], partial(self._greet, client, pair))
                )
            else:
                self._greet(client, pair)
        # Nothing of the market happens in between, so what comes next continues the greeting.
        self.hub.join(client, answer.added)
        if plan.ack_after:
            late = partial(self._acknowledge, client, plan)
            client.later.append(Later(plan.ack_after, None, late))

    def _acknowledge(self, client: Client, plan: Plan) -> None:
        for each in (plan.answer.reply, *plan.behind):
            self.hub.reply(client, each)

    def _greet(self, client: Client, pair: Pair) -> None:
        self.hub.greet(client, greeting(self.venue, *pair))

    # ------------------------------------------------------------ REST

    async def _rest(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        if not self._allowed(request, now):
            return _respond(RestAnswer(429, encode({"message": "Public rate limit exceeded"})))
        fault = self._rest_fault(request.url.path)
        if fault is not None:
            await asyncio.sleep(fault.latency_ms / 1000)
            if fault.answer is not None:
                whole = self.api.get(request.url.path, request.query_params)
                return spoilt(whole, fault.answer, fault.status or 200)
            if fault.status:
                return _respond(RestAnswer(fault.status, encode({"message": "Injected failure"})))
        url = f"{request.url.path}?{request.url.query}"
        answer = self._cache.find(url, now) if self.limits.rest_cache else None
        if answer is None:
            answer = self.api.get(request.url.path, request.query_params)
            if self.limits.rest_cache:
                answer = self._cache.keep(url, answer, now)
        return _respond(answer)

    def _allowed(self, request: Request, now: float) -> bool:
        if self.limits.rest_rate <= 0:
            return True
        host = request.client.host if request.client else ""
        bucket = self._buckets.get(host)
        if bucket is None:
            bucket = TokenBucket(self.limits.rest_rate, self.limits.rest_burst, now)
            self._buckets[host] = bucket
        return bucket.acquire(now) == 0.0

    def _rest_fault(self, path: str) -> RestFault | None:
        if self.rest_fault is None:
            return None
        fault, left = self.rest_fault
        if fault.paths and not any(part in path for part in fault.paths):
            return None
        if not self.hub.faults.chance(fault.probability):
            return None
        if fault.count:
            self.rest_fault = (fault, left - 1) if left > 1 else None
        return fault

    # ------------------------------------------------------------ control

    async def _healthz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _get_control(self, _request: Request) -> Response:
        return JSONResponse(self.report())

    async def _post_faults(self, request: Request) -> Response:
        try:
            return JSONResponse(self.control(request_of(await request.body())))
        except (ValueError, NotPossible) as error:
            return JSONResponse({"message": str(error)}, status_code=400)

    async def _post_flow(self, request: Request) -> Response:
        try:
            wanted = msgspec.json.decode(await request.body(), type=FlowRequest)
        except UNREADABLE as error:
            return JSONResponse({"message": str(error)}, status_code=400)
        self.flow(wanted.running)
        return JSONResponse({"running": wanted.running})

    async def _get_model(self, request: Request) -> Response:
        try:
            state = self.venue.state(request.path_params["product"])
        except KeyError:
            return JSONResponse({"message": "NotFound"}, status_code=404)
        trade = state.last_trade
        body = {
            "product": state.product,
            "time_us": state.time_us,
            "sequence": state.sequence,
            "last_trade_id": trade.trade_id if trade else None,
            "trades": state.tape.all(),
            "told_after": state.told_after,
            "book": {
                "bids": [row[:2] for row in state.bids],
                "asks": [row[:2] for row in state.asks],
            }
            if self.venue.has_book(state.product)
            else None,
        }
        return Response(encode(body), media_type="application/json")


_ERROR_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>"


def spoilt(answer: RestAnswer, kind: RestAnswerKind, status: int) -> Response:
    """The answer as something between the client and the venue may leave it."""
    match kind:
        case "html":
            return Response(_ERROR_PAGE, status, media_type="text/html; charset=utf-8")
        case "undecodable":
            return _respond(RestAnswer(status, answer.body, {"Content-Encoding": "gzip"}))
        case "cut":
            return _respond(RestAnswer(status, answer.body[: len(answer.body) // 2]))
        case "not_json":
            return _respond(RestAnswer(status, b"upstream connect error"))
        case "empty":
            return _respond(RestAnswer(status, b""))


def _respond(answer: RestAnswer) -> Response:
    return Response(
        answer.body,
        status_code=answer.status,
        headers=answer.headers,
        media_type="application/json; charset=utf-8",
    )
