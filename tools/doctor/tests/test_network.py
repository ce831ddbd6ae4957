"""Reach, layer by layer, against real sockets: up, down, and with a certificate nobody trusts."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.settings import CommonSettings
from services.common.stores.aws import open_client
from tools.doctor.brokers import check_server
from tools.doctor.checks import SETTINGS, check_venue_rest, check_venue_ws, endpoints
from tools.doctor.command import doctor
from tools.doctor.network import Endpoint, check_network
from tools.embedded import AwsServer, NatsServer, ValkeyServer, free_port
from tools.simulator.exchange import SimulatedExchange


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def certificate(folder: Path, days: int) -> Path:
    """A self-signed one for `localhost`, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{days}.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


@asynccontextmanager
async def listening(pem: Path | None = None) -> AsyncIterator[int]:
    """A server that accepts and says nothing; the port."""
    context = None
    if pem is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def endpoint(url: str) -> Endpoint:
    return Endpoint("it", url, "ITS_URL")


async def test_a_name_that_does_not_exist_is_a_matter_of_dns() -> None:
    finding = await check_network(endpoint("https://nowhere.invalid"))
    assert finding.level == "error"
    assert "name is not found" in finding.detail
    assert "ITS_URL" in finding.advice


async def test_a_port_nobody_listens_on_is_a_matter_of_tcp() -> None:
    finding = await check_network(endpoint(f"nats://127.0.0.1:{free_port()}"))
    assert finding.level == "error"
    assert "does not accept a connection" in finding.detail


async def test_a_port_that_is_open_is_well() -> None:
    async with listening() as port:
        assert (await check_network(endpoint(f"redis://u:p@localhost:{port}/0"))).level == "ok"


async def test_a_certificate_nobody_trusts_is_a_matter_of_tls(tmp_path: Path) -> None:
    async with listening(certificate(tmp_path, 90)) as port:
        finding = await check_network(endpoint(f"https://localhost:{port}"))
    assert finding.level == "error"
    assert "TLS fails (self-signed certificate)" in finding.detail
    assert "SSL_CERT_FILE" in finding.advice


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (5, "warning")])
async def test_a_trusted_certificate_is_well_until_it_is_about_to_expire(
    days: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, days)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with listening(pem) as port:
        finding = await check_network(endpoint(f"wss://localhost:{port}/ws"))
    assert finding.level == level, finding.detail
    assert "certificate valid for" in finding.detail


async def test_behind_a_proxy_it_is_the_proxy_that_has_to_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        finding = await check_network(endpoint("https://nowhere.invalid"))
        assert (finding.level, "through the proxy" in finding.detail) == ("ok", True)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    finding = await check_network(endpoint("https://nowhere.invalid"))
    assert finding.level == "error"
    assert "HTTPS_PROXY" in finding.advice


async def test_something_that_is_no_address_is_said_to_be_none() -> None:
    finding = await check_network(endpoint("somewhere"))
    assert (finding.level, "ITS_URL" in finding.advice) == ("error", True)


async def test_jetstream_says_what_it_holds(nats_server: NatsServer) -> None:
    settings = CommonSettings.model_validate({"nats_urls": (nats_server.url,)})
    found = await check_server(settings)
    assert [(one.name, one.level) for one in found] == [
        ("NATS max_payload", "ok"),
        ("JetStream", "ok"),
    ]


async def test_a_server_whose_messages_are_too_small_for_a_book_is_an_error(
    tmp_path: Path,
) -> None:
    async with NatsServer(data_dir=tmp_path, extra_config="max_payload: 1048576") as server:
        settings = CommonSettings.model_validate({"nats_urls": (server.url,)})
        found = {one.name: one for one in await check_server(settings)}
    assert found["NATS max_payload"].level == "error"
    assert "8388608" in found["NATS max_payload"].advice


async def test_a_running_valkey_says_what_it_is(valkey_server: ValkeyServer) -> None:
    settings = CommonSettings.model_validate(
        {"broker_kind": "redis", "redis_url": valkey_server.url}
    )
    found = {one.name: one.level for one in await check_server(settings)}
    assert found["Redis"] == "ok"


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_a_broker_that_is_down_is_an_error(kind: str) -> None:
    settings = CommonSettings.model_validate(
        {
            "broker_kind": kind,
            "nats_urls": (f"nats://127.0.0.1:{free_port()}",),
            "redis_url": f"redis://127.0.0.1:{free_port()}",
        }
    )
    (finding,) = await check_server(settings)
    assert finding.level == "error"
    assert finding.advice


def test_every_address_of_the_settings_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    loaded = {name: SETTINGS[name]() for name in ("ingestor", "gateway")}
    found = {(one.name, one.host, one.port) for one in endpoints(loaded)}
    assert ("broker", "127.0.0.1", 4222) in found
    assert ("s3", "minio", 9000) in found
    assert ("dynamodb", "dynamodb.us-east-1.amazonaws.com", 443) in found
    assert {name for name, _, _ in found} >= {"venue REST", "venue WebSocket"}


async def run_doctor() -> tuple[int, dict[str, dict[str, str]]]:
    result = await asyncio.to_thread(CliRunner().invoke, doctor, ["--json"])
    return result.exit_code, {one["name"]: one for one in json.loads(result.stdout)}


async def test_it_is_well_when_everything_is_up_and_says_what_is_down(
    nats_server: NatsServer, aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SimulatedExchange() as exchange:
        environment = {
            **aws_server.environment,
            "NATS_URLS": nats_server.url,
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_WS_FALLBACK": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        status, found = await run_doctor()
        errors = [one for one in found.values() if one["level"] == "error"]
        assert (status, errors) == (0, [])
        assert {"JetStream", "dynamodb", "s3", "venue REST", "venue WebSocket"} <= found.keys()

        monkeypatch.setenv("NATS_URLS", f"nats://127.0.0.1:{free_port()}")
        status, found = await run_doctor()
    assert status == 1
    assert found["network: broker"]["level"] == "error"
    assert "NATS_URLS" in found["network: broker"]["advice"]
    assert found["dynamodb"]["level"] != "error"


async def test_making_clients_of_the_stores_makes_no_one_else_late(
    nats_server: NatsServer, aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any) -> Any:
        # As loading the descriptions of AWS does on a slow machine: it keeps the loop busy.
        time.sleep(2.5)
        return open_client(*arguments)

    monkeypatch.setattr("tools.doctor.checks.open_client", slowly)
    for name, value in {**aws_server.environment, "NATS_URLS": nats_server.url}.items():
        monkeypatch.setenv(name, value)
    _, found = await run_doctor()
    levels = {name: found[name]["level"] for name in ("JetStream", "broker (nats)", "dynamodb")}
    assert levels["JetStream"] == levels["broker (nats)"] == "ok", found
    assert levels["dynamodb"] != "error", found


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:1080"},
        {"HTTPS_PROXY": "http://proxy:99999"},
        {"HTTP_PROXY": "ftp://proxy", "HTTPS_PROXY": "http://[bad"},
    ],
)
async def test_a_proxy_that_cannot_be_used_is_a_finding_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (rest,) = await check_venue_rest("https://venue.invalid")
    socket = await check_venue_ws("wss://venue.invalid")
    network = await check_network(Endpoint("venue", "wss://venue.invalid", "COINBASE_WS_PRIMARY"))
    for finding in (rest, socket, network):
        assert finding.level == "error"
        assert list(variables)[-1] in finding.detail


async def test_what_no_proxy_may_hold_never_ends_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "::1,10.0.0.0/8,[fd00::1]:443,venue.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.invalid:3128")
    (rest,) = await check_venue_rest("https://venue.invalid")
    assert (rest.level, "HTTPS_PROXY" in rest.detail) == ("error", False)
