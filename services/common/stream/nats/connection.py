"""One life of a NATS connection, and requests over it with typed errors. See `link.py` for more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.client import LeanClient
from services.common.stream.nats.wire import (
    Failed,
    Handler,
    RunHandler,
    publish_frame,
    status_of,
)

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 2

# What reading an answer raises that is not of the expected shape.
_SHAPE_ERRORS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class ApiError(BrokerUnavailable):
    """JetStream answered a request with an error; `code` is its `err_code`."""

    def __init__(self, target: str, code: int, description: str) -> None:
        self.code = code
        super().__init__(target, f"{description} (JetStream error {code})")


class Answer(NamedTuple):
    """A reply to a request."""

    headers: bytes
    payload: bytes


@dataclass(slots=True)
class _Waiting:
    """A request under way: `last` knows the answer that ends it, `answers` came so far."""

    last: Callable[[Answer], bool]
    done: asyncio.Future[None]
    answers: int = 0


class Connection:
    """One life of a connection. After `lost` is set every call raises BrokerUnavailable.

    So does whatever else nats-py raises for a call: its own errors, asyncio's, ssl's, those of
    transports that have just died. None of them may end more than the call.
    """

    def __init__(self, client: LeanClient, target: str) -> None:
        self.client = client
        self.target = target
        self.lost = asyncio.Event()
        # Set when the connection is lost, for those who wait for something else as well, in order.
        self.wake_when_lost: dict[asyncio.Event, None] = {}
        self._inbox = client.new_inbox()
        # How many were sent; also the next one's token.
        self.requests = 0
        self._replies: dict[str, _Waiting] = {}

    def prepare(self) -> None:
        self.subscribe(f"{self._inbox}.*", self._on_reply)

    @property
    def max_payload(self) -> int:
        return int(self.client.max_payload)

    def new_inbox(self) -> str:
        return str(self.client.new_inbox())

    def subscribe(
        self,
        subject: str,
        handler: Handler,
        failed: Failed | None = None,
        run: RunHandler | None = None,
    ) -> str:
        """Answers what `unsubscribe` wants; for the handlers see `Frames`.

        `failed` is told that a handler raised; without it the connection is lost by that.
        """
        try:
            return self.client.attach(subject, handler, failed or self._on_failed, run)
        except Exception as error:
            raise self._unavailable(error) from error

    def unsubscribe(self, subscription: str) -> None:
        try:
            self.client.detach(subscription)
        except Exception as error:  # noqa: BLE001 - a connection that is lost has none any more
            log.debug("nats_unsubscribe_failed", error=str(error))

    def write(self, frames: bytes) -> None:
        """Send whole frames (see `wire.py`)."""
        try:
            self.client.write(frames)
        except Exception as error:
            raise self._unavailable(error) from error

    async def drain(self) -> None:
        """Wait while more is written than the server takes."""
        try:
            await self.client.drained()
        except Exception as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(self.target, str(error) or type(error).__name__)

    async def collect(
        self,
        subject: str,
        body: Mapping[str, Any] | None,
        last: Callable[[Answer], bool],
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Send a request and hand every answer to `last` until that returns True.

        `timeout_s` is how long the server may be silent: while answers keep coming a page may
        take longer, on a slow line or a busy machine.

        Raises:
            BrokerUnavailable: no answer in time, nobody to answer, or the connection was lost.
        """
        self.requests += 1
        token = str(self.requests)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._replies[token] = _Waiting(last, done)
        try:
            if self.lost.is_set():
                raise BrokerUnavailable(self.target, "not connected")
            payload = b"" if body is None else json.dumps(body).encode()
            self.write(publish_frame(subject, f"{self._inbox}.{token}", payload))
            before = -1
            while not done.done():
                if waiting.answers == before:
                    raise BrokerUnavailable(self.target, f"no answer within {timeout_s:g} s")
                before = waiting.answers
                await asyncio.wait((done,), timeout=timeout_s)
            done.result()
        finally:
            del self._replies[token]

    async def request(
        self, subject: str, body: Mapping[str, Any] | None, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Answer:
        answers: list[Answer] = []

        def take(answer: Answer) -> bool:
            answers.append(answer)
            return True

        await self.collect(subject, body, take, timeout_s)
        return answers[0]

    async def api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call `$JS.API.<verb>`.

        Raises:
            ApiError: the server refused.
            BrokerUnavailable: the server did not answer.
        """
        payload = (await self.request(f"$JS.API.{verb}", body)).payload
        with self.reading():
            answer: dict[str, Any] = dict(json.loads(payload))
            error = answer.get("error")
            if error is not None:
                code = int(error.get("err_code", 0))
                raise ApiError(self.target, code, str(error.get("description", "error")))
            return answer

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around what is read out of an answer.

        Raises:
            BrokerUnavailable: the answer has not the shape it should have.
        """
        try:
            yield
        except _SHAPE_ERRORS as error:
            raise self._unreadable(error) from error

    def _on_reply(self, subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        waiting = self._replies.get(subject.rpartition(".")[2])
        if waiting is None:
            return
        if waiting.done.done():
            return
        waiting.answers += 1
        if status_of(headers) == "503":
            waiting.done.set_exception(BrokerUnavailable(self.target, "JetStream is not ready"))
            return
        try:
            ended = waiting.last(Answer(headers, payload))
        except _SHAPE_ERRORS as error:
            # It is this request's, as all others on this connection can go on.
            waiting.done.set_exception(self._unreadable(error))
            return
        if ended:
            waiting.done.set_result(None)

    def _unreadable(self, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(self.target, f"unreadable answer: {error!r}")

    def _on_failed(self, error: Exception) -> None:
        log.error("nats_handler_failed", exc_info=error)
        self.lose()

    def lose(self) -> None:
        self.lost.set()
        for event in self.wake_when_lost:
            event.set()
        for waiting in self._replies.values():
            if not waiting.done.done():
                waiting.done.set_exception(BrokerUnavailable(self.target, "connection lost"))

    async def close(self) -> None:
        self.lose()
        try:
            # Where a TLS handshake failed, nats-py waits for ever for the socket to be closed.
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.client.close()
        except Exception as error:  # noqa: BLE001 - it is given up, however it ends
            log.debug("nats_close_failed", error=str(error))
