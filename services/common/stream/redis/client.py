"""Calls to Redis or Valkey with typed errors, and whether the server deletes records by itself.

redis-py's own retries are off: what may be sent again, and when, is decided by the callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

from services.common.errors import BrokerUnavailable
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from services.common.stream.redis.packing import Packed

# Blocking reads wait this long at the server, so the socket's own limit must be well above it.
BLOCK_MS = 1000
_SOCKET_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 3.0
# How many calls of a client are under way at once, each on a connection of its own; others wait for
# one of these to end. The driver's pool has 100, and refuses whoever asks for more.
_MOST_AT_ONCE = 64

# The name and its arguments; or the name and a `Packed`, which has the name in it too.
Command = tuple[Any, ...]


class Refused(BrokerUnavailable):
    """The server answered a command with an error; `reason` is its text."""


def target_of(url: str) -> str:
    """Host, port and database without the password, for messages and logs."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}{parts.path}"


def tls_options(tls: TlsFiles) -> dict[str, Any]:
    """As redis-py takes them; it reads the files at each connection. Only a TLS URL bears them."""
    options = {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert, "ssl_keyfile": tls.key}
    return {name: path for name, path in options.items() if path is not None}


class RedisClient:
    """One worker's connections. Safe to keep over outages: the next call connects again.

    A sticky client does not connect a second time by itself: once its connection is lost, calls
    raise BrokerUnavailable until `renew`. Use it from one task.
    """

    def __init__(self, url: str, *, sticky: bool = False, tls: TlsFiles = NO_TLS_FILES) -> None:
        self.target = target_of(url)
        self._connected = False
        self._turn = asyncio.Semaphore(_MOST_AT_ONCE)
        # redis-py types its commands as sync or async at once; what is used of it is checked here.
        self._redis: Any = redis.asyncio.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._on_connect if sticky else None,
            **tls_options(tls),
        )
        # The URL has chosen a class of connection: plain or TLS.
        pool = self._redis.connection_pool
        pool.connection_class = type("Connection", (_Packing, pool.connection_class), {})

    async def _on_connect(self, connection: Any) -> None:
        if self._connected:
            raise ConnectionLost("connection lost")
        self._connected = True
        await connection.on_connect()

    async def renew(self) -> None:
        """Let a sticky client connect again."""
        await self._redis.connection_pool.disconnect()
        self._connected = False

    async def call(self, *command: Any) -> Any:
        """Run one command.

        Raises:
            Refused: the server answered with an error.
            BrokerUnavailable: it did not answer.
        """
        try:
            async with self._turn:
                return await self._redis.execute_command(*command)
        except ResponseError as error:
            raise Refused(self.target, str(error)) from error
        except Exception as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BrokerUnavailable:
        """Whatever the driver raised: its own, asyncio's, ssl's, a parser's over odd answers.

        None of them may end more than the call.
        """
        return BrokerUnavailable(self.target, str(error) or type(error).__name__)

    async def transact(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands as one MULTI: all are taken, or none is; in one round trip.

        An answer is a `ResponseError` where a command was taken and failed by itself.

        Raises:
            Refused: none was taken (out of memory, read-only replica, loading its data, ...).
            BrokerUnavailable: no answer; they may have been run.
        """
        return await self._pipeline(commands, atomic=True)

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Run independent commands in one round trip; answers as in `transact`."""
        return await self._pipeline(commands, atomic=False) if commands else []

    async def _pipeline(self, commands: Sequence[Command], *, atomic: bool) -> list[Any]:
        try:
            async with self._turn, self._redis.pipeline(transaction=atomic) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute(raise_on_error=False))
        except ResponseError as error:
            raise Refused(self.target, str(error)) from error
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        except Exception as error:
            # It stopped reading in the middle: what follows must not be taken for other answers.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise self._unavailable(error) from error

    def checked(self, answers: list[Any], about: str = "") -> list[Any]:
        """The answers of a pipeline; raises BrokerUnavailable where one is an error."""
        if text := next(filter(None, map(refusal, answers)), None):
            raise BrokerUnavailable(self.target, about + text)
        return answers

    async def aclose(self) -> None:
        await self._redis.aclose()


class _Packing:
    """Lets redis-py's connections send a `Packed` as it stands."""

    def pack_command(self, *command: Any) -> list[bytes]:
        last = command[-1]
        if isinstance(last, Packed):
            return [last.data]
        return list(super().pack_command(*command))  # type: ignore[misc]  # redis-py's connection


def refusal(answer: Any) -> str | None:
    """The error text when a pipelined answer is an error."""
    return str(answer) if isinstance(answer, RedisError) else None


EVICTION_ACTION = (
    "set maxmemory-policy noeviction: a full server then refuses, records wait, and nothing that "
    "was acknowledged is deleted"
)


def eviction_of(memory: object) -> str | None:
    """What `INFO memory` says of it; None where nothing that is acknowledged is deleted.

    Policies named `volatile-` delete keys that expire, and none of a log's keys does.
    """
    if not isinstance(memory, Mapping):
        return None
    told: Mapping[str, Any] = memory
    policy = str(told.get("maxmemory_policy", "noeviction"))
    bounded = str(told.get("maxmemory", 0)) not in ("0", "")
    if not bounded or not policy.startswith("allkeys-"):
        return None
    return f"maxmemory-policy is {policy}: a full Redis deletes acknowledged records"
