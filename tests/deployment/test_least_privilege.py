"""NATS as production has it: TLS, client certificates, and for each service what it may do.

The pods of the production profile run as processes, with the environment that the charts give them;
operator, account and certificates are the test's own. tests/deployment/test_pods.py does the same
with the users and passwords of the staging profile.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
import trustme
from nats.aio.client import Client
from websockets.asyncio.client import connect

from services.common.network.nats_credentials import NatsCredentials
from services.common.network.tls import TlsFiles
from services.common.settings import AwsSettings, CommonSettings
from services.common.stream import LogSpec, Position, Record
from services.common.stream.factory import open_broker
from services.common.stream.nats.records import position_of
from services.common.testing.waiting import WAIT_S, eventually
from services.normalizer.normalize import Normalizer
from services.normalizer.venues.mapping import Unmappable
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import Bucket
from tests.deployment.nats_identities import Operator, permissions_of
from tools.dev.charts.kubernetes import Pod, pods
from tools.dev.charts.testing import SECRETS, environment
from tools.dev.charts.workspace import ROOT, UMBRELLA, Helm, Object, Workspace
from tools.doctor.brokers import check_server
from tools.embedded import AwsServer, NatsServer, free_port
from tools.simulator.exchange import SimulatedExchange
from tools.stack.process import Process

pytestmark = pytest.mark.charts
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
PERMISSIONS = ROOT / "helm" / "nats" / "permissions"
API_KEY = SECRETS["market-data-gateway"]["AUTH_API_KEYS"]
# Where the charts mount the Secrets.
CREDS, TLS = "/etc/nats-creds", "/etc/nats-tls"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    with Helm() as helm:
        workspace = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        workspace.build()
        certificates = {"global.natsClientCertificate": "true"}
        profile = workspace.profile("production")
        return workspace.render(UMBRELLA, *profile, settings=certificates)


class Secured:
    """A server with TLS and permissions, and the Secrets of those who may use it."""

    def __init__(self, folder: Path, server: NatsServer, tls: TlsFiles) -> None:
        self.server = server
        self.tls = tls
        self._folder = folder

    @property
    def url(self) -> str:
        return self.server.url.replace("nats://", "tls://")

    def here(self, name: str, variables: Mapping[str, str]) -> dict[str, str]:
        """The variables, with the Secrets of `name` where they are on this machine."""
        mounted = {CREDS: self._folder / name, TLS: self._folder}
        return {
            variable: str(mounted[folder] / Path(value).name)
            if (folder := str(Path(value).parent)) in mounted
            else value
            for variable, value in variables.items()
        }

    def credentials(self, name: str) -> NatsCredentials:
        return NatsCredentials.read(str(self._folder / name / "nats.creds"))


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Staging, whose NATS is the charts' own, with certificates."""
    secret = {"nats.tls.existingSecret": "market-data-nats-tls", "nats.tls.verify": "true"}
    with Helm() as helm:
        workspace = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        workspace.build()
        return workspace.render(UMBRELLA, *workspace.profile("staging"), settings=secret)


@pytest.fixture
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("secrets")
    authority, operator = trustme.CA(), Operator()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("service@market-data")
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    client.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    client.private_key_pem.write_to_path(str(folder / "tls.key"))
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    for name in ("server.crt", "server.key"):
        (folder / name).write_bytes((folder / "server.pem").read_bytes())
    for user in (*SERVICES, "operator"):
        (folder / user).mkdir()
        text = operator.credentials(user, permissions_of(PERMISSIONS / f"{user}.conf"))
        (folder / user / "nats.creds").write_text(text)
    pem = folder / "server.pem"
    tls = (
        f'tls {{ cert_file: "{pem}", key_file: "{pem}", ca_file: "{folder}/ca.crt", verify: true }}'
    )
    files = TlsFiles(*(str(folder / name) for name in ("ca.crt", "tls.crt", "tls.key")))
    async with NatsServer(extra_config=f"{tls}\n{operator.config}") as running:
        yield Secured(folder, running, files)


def one_of_each(objects: list[Object]) -> dict[str, Pod]:
    """A pod of each service, and all normalizers, as each has its own shards."""
    found: dict[str, Pod] = {}
    for pod in pods(objects):
        name = pod.labels["app.kubernetes.io/name"]
        if pod.owner.startswith("Deployment/"):
            found.setdefault(pod.owner if name == "normalizer" else name, pod)
    return found


async def receive_ticks(port: int, count: int) -> None:
    url = f"ws://127.0.0.1:{port}/ws"
    key = {"X-API-Key": API_KEY}
    async with connect(url, max_size=None, proxy=None, additional_headers=key) as client:
        await client.send(json.dumps({"type": "subscribe", "product": "BTC-USD"}))
        async with asyncio.timeout(60):
            while count:
                count -= json.loads(await client.recv())["type"] == "incr"


async def make_stores(objects: list[Object], server: AwsServer) -> None:
    """In production no service makes them."""
    given = environment(objects, one_of_each(objects)["snapshotter"])
    aws = AwsSettings.model_validate(
        {
            "ddb_table": given.get("DDB_TABLE", AwsSettings.model_fields["ddb_table"].default),
            "s3_bucket": given.get("S3_BUCKET", AwsSettings.model_fields["s3_bucket"].default),
            "aws_endpoint_url": server.url,
        }
    )
    async with RowStore(aws) as rows, Bucket(aws) as bucket:
        await rows.ensure(create=True)
        await bucket.ensure(create=True)


@pytest.mark.e2e
async def test_the_pods_of_production_work_with_their_own_credentials_and_no_more(
    objects: list[Object],
    secured: Secured,
    aws_server: AwsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    await make_stores(objects, aws_server)
    http_port = free_port()
    async with SimulatedExchange() as exchange:
        # Where the others are is all that differs from a cluster.
        elsewhere = {
            **aws_server.environment,
            "NATS_URLS": secured.url,
            "JS_REPLICAS": "1",
            # A store for two hours of a market is more than this machine has.
            "JS_RAW_MAX_BYTES": "0",
            "JS_TICK_MAX_BYTES": "0",
            "HTTP_PORT": str(http_port),
            "COINBASE_WS_PRIMARY": exchange.ws_url,
            "COINBASE_WS_FALLBACK": exchange.ws_url,
            "COINBASE_REST_URL": exchange.rest_url,
        }

        def process(pod: Pod) -> Process:
            name = pod.labels["app.kubernetes.io/name"]
            given = environment(objects, pod)
            assert given["ENVIRONMENT"] == "production"
            assert given["NATS_URLS"].startswith("tls://")
            assert given["NATS_CREDS_FILE"].startswith(CREDS)
            mounted = secured.here(name, given)
            return Process(
                pod.owner.replace("/", "-"),
                f"services.{name}",
                port=free_port(),
                log_dir=tmp_path,
                ready_path="/readyz",
                environment=lambda port: mounted | elsewhere | {"ADMIN_PORT": str(port)},
            )

        running = [process(pod) for pod in one_of_each(objects).values()]
        assert len(running) == 5
        try:
            async with asyncio.TaskGroup() as group:
                for one in running:
                    group.create_task(one.start())
            await receive_ticks(http_port, 5)
            assert "violation" not in secured.server.log_file.read_text().lower()
        finally:
            for one in running:
                await one.stop()


async def test_the_doctor_looks_as_the_operator(secured: Secured) -> None:
    given = {"nats_urls": secured.url, "nats_creds_file": f"{CREDS}/nats.creds"}
    files = {f"nats_tls_{kind}_file": getattr(secured.tls, kind) for kind in ("ca", "cert", "key")}
    settings = CommonSettings.model_validate(secured.here("operator", given) | files)
    assert {finding.level for finding in await check_server(settings)} == {"ok"}


@asynccontextmanager
async def connected(
    secured: Secured, user: str
) -> AsyncIterator[tuple[Client, asyncio.Queue[str]]]:
    """As a service would be that somebody has taken over; and what it is refused."""
    refused: asyncio.Queue[str] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refused.put_nowait(str(error))

    client = await nats.connect(
        secured.url,
        tls=secured.tls.context(),
        error_cb=on_error,
        allow_reconnect=False,
        **secured.credentials(user).options(),
    )
    try:
        yield client, refused
    finally:
        await client.close()


RAW, TICK = "market.raw.coinbase.trades.BTC-USD", "market.tick.0.coinbase.trades.BTC-USD"
BEYOND = {
    "ingestor": [TICK, "market.group.raw.x", "$JS.API.CONSUMER.CREATE.MARKET_RAW"],
    "normalizer": [RAW, "$JS.API.STREAM.PURGE.MARKET_RAW", "$JS.API.STREAM.DELETE.MARKET_RAW"],
    "snapshotter": [RAW, TICK, "market.invalid", "$JS.API.STREAM.DELETE.MARKET_TICK_0"],
    "gateway": [
        RAW,
        TICK,
        "market.invalid",
        "market.group.x",
        "$JS.API.CONSUMER.CREATE.MARKET_RAW",
    ],
    "operator": ["elsewhere", "$SYS.REQ.SERVER.PING"],
}


@pytest.mark.parametrize(("user", "subjects"), BEYOND.items(), ids=BEYOND)
async def test_who_takes_over_a_service_may_do_what_it_does_and_no_more(
    user: str, subjects: list[str], secured: Secured
) -> None:
    async with connected(secured, user) as (client, refused):
        for subject in subjects:
            await client.publish(subject, b"{}")
            async with asyncio.timeout(WAIT_S):
                assert re.search(r"permissions violation", said := await refused.get(), re.I)
                assert subject.lower() in said.lower()
        hears = {"gateway": RAW, "ingestor": TICK}.get(user, "elsewhere")
        await client.subscribe(hears)
        async with asyncio.timeout(WAIT_S):
            assert "permissions violation for subscription" in (await refused.get()).lower()


async def test_an_answer_that_is_sent_to_a_log_is_no_record(secured: Secured) -> None:
    """NATS does not check where an answer is to go; the server itself then publishes it."""
    async with (
        connected(secured, "operator") as (operator, _),
        connected(secured, "gateway") as (gateway, refused),
    ):
        store = operator.jetstream()
        await store.add_stream(name="MARKET_RAW", subjects=["market.raw.>"])
        await gateway.publish("$JS.API.STREAM.INFO.MARKET_RAW", b"", reply=RAW)

        async def arrived() -> bool:
            return (await store.stream_info("MARKET_RAW")).state.messages == 1

        await eventually(arrived)
        assert refused.empty()
        stored = await store.get_msg("MARKET_RAW", 1)
    assert stored.subject == RAW
    assert stored.data is not None
    with pytest.raises(Unmappable):
        Normalizer(1).read(RAW, position_of(RAW, ""), stored.data)


async def test_the_charts_own_server_wants_user_and_certificate(
    own_nats: list[Object], secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pod,) = (pod for pod in pods(own_nats) if pod.owner.startswith("StatefulSet/"))
    for name, value in environment(own_nats, pod).items():
        monkeypatch.setenv(name, value)
    (config,) = (
        item["data"]["nats.conf"] for item in own_nats if "nats.conf" in item.get("data", {})
    )
    blocks = re.findall(r"(?ms)^(?:tls|authorization) \{.*?^\}", config)
    assert len(blocks) == 2
    folder = Path(str(secured.tls.ca)).parent
    text = "\n".join(blocks).replace(f"{TLS}/tls.", f"{folder}/server.").replace(TLS, str(folder))
    async with NatsServer(extra_config=text) as server:
        for user in (*SERVICES, "operator"):
            secret = SECRETS[f"market-data-nats-{user}"]
            given = CommonSettings.model_validate(
                {
                    "nats_urls": server.url.replace("nats://", "tls://"),
                    "nats_user": secret["NATS_USER"],
                    "nats_password": secret["NATS_PASSWORD"],
                    "nats_tls_ca_file": secured.tls.ca,
                    "nats_tls_cert_file": secured.tls.cert,
                    "nats_tls_key_file": secured.tls.key,
                }
            )
            async with open_broker(given) as broker:
                await broker.ensure([LogSpec("raw", 60)])
                record = Record(RAW, b"x", Position(1, 1))
                if user in ("ingestor", "operator"):
                    await broker.publish(record)
        for tls, password in (
            (TlsFiles(ca=secured.tls.ca), "1e5 #gateway"),
            (secured.tls, "wrong"),
        ):
            with pytest.raises((nats.errors.Error, OSError)):
                await nats.connect(
                    server.url.replace("nats://", "tls://"),
                    user="gateway",
                    password=password,
                    tls=tls.context(),
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    connect_timeout=5,
                )


@pytest.mark.parametrize("wrong", ["no credentials", "no certificate", "another operator"])
async def test_who_is_not_known_is_let_in_nowhere(
    wrong: str, secured: Secured, tmp_path: Path
) -> None:
    tls = secured.tls
    options = secured.credentials("gateway").options()
    if wrong == "no credentials":
        options = {}
    elif wrong == "no certificate":
        tls = TlsFiles(ca=tls.ca)
    else:
        stranger = tmp_path / "nats.creds"
        allowed = permissions_of(PERMISSIONS / "operator.conf")
        stranger.write_text(Operator().credentials("operator", allowed))
        options = NatsCredentials.read(str(stranger)).options()
    with pytest.raises((nats.errors.Error, OSError)):
        await nats.connect(
            secured.url,
            tls=tls.context(),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=5,
            **options,
        )
