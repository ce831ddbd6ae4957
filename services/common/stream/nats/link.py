"""A NATS connection that is kept up.

nats-py's own reconnect is off. It flushes what was buffered while the connection was away before
it tells anybody that there is a new one, so a publisher could not put its unacked records first. A
`Link` instead makes a new `Connection` each time, and whoever uses one starts over on the next.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import nats.errors
import structlog
from pydantic import SecretStr

from services.common.errors import BrokerUnavailable
from services.common.network.nats_credentials import BadCredentials, NatsCredentials
from services.common.network.tls import NO_TLS_FILES, TlsFiles
from services.common.resilience import delay_s
from services.common.stream.nats.client import LeanClient
from services.common.stream.nats.connection import Connection
from services.common.stream.worker import Worker, say_failed_try, wait_for

log = structlog.get_logger(__name__)

_CONNECT_TIMEOUT_S = 3
# nats-py may lose its own callback when the socket dies while it is closing; so look, too.
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class NatsOptions:
    servers: tuple[str, ...]
    creds_file: str | None = None
    user: str | None = None
    password: SecretStr | None = None
    tls: TlsFiles = NO_TLS_FILES

    @property
    def target(self) -> str:
        """The servers without user names and passwords, for messages and logs."""
        return ",".join(server.rpartition("@")[2] or server for server in self.servers)


class Link(Worker):
    """Keeps one connection up until closed; its calls then raise BrokerClosed."""

    def __init__(self, options: NatsOptions, name: str) -> None:
        super().__init__(f"nats link {name}")
        self._options = options
        self._name = name
        self._connection: Connection | None = None
        self.start(self._run())

    @property
    def target(self) -> str:
        return self._options.target

    async def connected(self) -> Connection:
        """The connection, waiting for one as long as it takes."""
        await self.until(lambda: self._up)
        return self.current()

    def current(self) -> Connection:
        """The connection there is now. Raises BrokerUnavailable when there is none."""
        self.check_open()
        if self._up is None:
            raise BrokerUnavailable(self.target, "not connected")
        return self._up

    @property
    def _up(self) -> Connection | None:
        found = self._connection
        return None if found is None or found.lost.is_set() else found

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                connection = await self._connect()
            except BrokerUnavailable as error:
                said = {"kind": "nats", "link": self._name, "reason": str(error)}
                say_failed_try(attempt, "broker_connect_failed", **said)
                await asyncio.sleep(delay_s(attempt))
                attempt += 1
                continue
            attempt = 0
            self._connection = connection
            log.info("broker_connected", kind="nats", target=self.target, link=self._name)
            self.changed.ring()
            try:
                while not connection.lost.is_set() and connection.client.is_connected:
                    await wait_for(connection.lost, _LOOK_S)
            finally:
                self._connection = None
                await connection.close()
            log.warning("broker_disconnected", kind="nats", target=self.target, link=self._name)

    async def _connect(self) -> Connection:
        client = LeanClient()
        connection = Connection(client, self.target)
        said: Exception | None = None

        async def on_closed() -> None:
            connection.lose()

        async def on_error(error: Exception) -> None:
            nonlocal said
            said = error
            log.debug("nats_error", link=self._name, error=repr(error))
            if isinstance(error, nats.errors.SlowConsumerError):
                # Something was dropped in this process; starting over is what repairs it.
                connection.lose()

        options: dict[str, Any] = {}
        if self._options.creds_file is not None:
            try:
                options |= NatsCredentials.read(self._options.creds_file).options()
            except BadCredentials as error:
                raise BrokerUnavailable(self.target, f"credentials: {error}") from error
        if self._options.password is not None:
            options["user"] = self._options.user
            options["password"] = self._options.password.get_secret_value()
        if self._options.tls:
            try:
                options["tls"] = self._options.tls.context()
            except Exception as error:
                raise BrokerUnavailable(self.target, f"certificates: {error}") from error
        up = False
        try:
            await client.connect(
                list(self._options.servers),
                name=f"mdf {self._name}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_CONNECT_TIMEOUT_S,
                ping_interval=10,
                skip_subject_validation=True,
                closed_cb=on_closed,
                error_cb=on_error,
                **options,
            )
            connection.prepare()
            up = True
        except Exception as error:
            reason = str(error) or str(said or "") or type(error).__name__
            raise BrokerUnavailable(self.target, reason) from error
        finally:
            if not up:
                # nats-py leaves the socket of a failed or cancelled attempt open.
                await connection.close()
        return connection
