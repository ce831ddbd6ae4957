"""The IAM policies in `deploy/iam` against the calls that the code makes.

Every call of the SDK is noted by an event hook while the stores are worked with on moto's server:
each must be allowed by the policy of whoever makes it, and nothing is allowed that nobody does. The
server enforces the policies meanwhile, but for what it does not know (`for_moto`).
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import aioboto3
import botocore.session
import httpx
import pytest
from botocore import handlers, xform_name

from services.common.errors import StoreUnavailable
from services.common.settings import AwsSettings
from services.common.stores.aws import READER, open_client
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.index import Head, IndexedObject, Span, next_commit, pack_commit
from services.common.stores.layout import pending_key
from services.common.stores.ports import ArchiveReader, CheckpointReader, LatestReader
from services.common.stores.rows import KEY
from services.common.stores.s3 import S3Store
from services.common.stores.s3_archive import S3ArchiveReader
from services.common.stream import Position, Publisher
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.subjects import StreamKey
from services.common.testing.proxy import Proxy
from services.common.testing.raw_records import RawStream, raw_message
from services.common.testing.tick_records import START, TickStream
from services.common.testing.waiting import eventually
from services.snapshotter.s3 import ArchiveLog, Bucket
from services.snapshotter.testing import SHARDS, Platform
from tests.deployment.policies import ROLES, ROOT, VALUES, Call, allowing, as_list, document
from tools.doctor.checks import check_bucket, check_table
from tools.embedded import AwsServer
from tools.replay.archive import ArchiveSource, S3Objects
from tools.replay.records import Selection

# What IAM asks for where it is not the operation's own name.
ACTIONS = {
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
}
# In development only, where the snapshotter makes what is missing.
DEVELOPMENT = {"CreateTable", "CreateBucket"}
BOOK = StreamKey("coinbase", "book", "BTC-USD")
TRADES = StreamKey("coinbase", "trades", "BTC-USD")


@dataclass
class Calls:
    """What the SDK was asked for since `made` was emptied."""

    made: set[Call] = field(default_factory=set)

    def note(self, params: dict[str, Any], model: Any, **_: object) -> None:
        """A handler of botocore's `provide-client-params`."""
        service = model.service_model.service_name
        if service == "s3":
            bucket = f"arn:aws:s3:::{params['Bucket']}"
            keys = [each["Key"] for each in params.get("Delete", {}).get("Objects", ())]
            keys += [params["Key"]] if "Key" in params else []
            resources = [f"{bucket}/{key}" for key in keys] or [bucket]
        else:
            tables = [params["TableName"]] if "TableName" in params else params["RequestItems"]
            account = f"arn:aws:dynamodb:{VALUES['AWS_REGION']}:{VALUES['AWS_ACCOUNT_ID']}"
            resources = [f"{account}:table/{table}" for table in tables]
        action = f"{service}:{ACTIONS.get(model.name, model.name)}"
        self.made |= {Call(model.name, action, resource) for resource in resources}


@contextlib.contextmanager
def noting(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note the calls of every client that is opened while the block runs."""
    with monkeypatch.context() as patch:
        hook = ("provide-client-params", calls.note)
        patch.setattr(handlers, "BUILTIN_HANDLERS", [*handlers.BUILTIN_HANDLERS, hook])
        yield


@pytest.fixture
async def platform(
    aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Platform]:
    """Stores with table and bucket, as an administrator made them, and a broker in memory."""
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    server = MemoryServer()
    proxy = Proxy(aws_server.port)
    await proxy.start()
    async with Platform(aws_server.url, proxy, lambda: MemoryBroker(server)) as opened:
        async with (
            open_client("dynamodb", opened.aws, READER) as dynamodb,
            open_client("s3", opened.aws, READER) as s3,
        ):
            await dynamodb.create_table(
                TableName=opened.aws.ddb_table,
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
            await s3.create_bucket(Bucket=opened.aws.s3_bucket)
        yield opened
    await proxy.aclose()


def for_moto(policy: dict[str, Any]) -> str:
    """The policy as moto's server understands it.

    It takes HEAD of a bucket for an action that IAM does not have, deleting several objects for
    something that is done to the bucket, and every table for the same.
    """
    for one in policy["Statement"]:
        actions = as_list(one["Action"])
        if any(action.startswith("dynamodb:") for action in actions):
            one["Resource"] = "*"
        if "s3:ListBucket" in actions:
            one["Action"] = [*actions, "s3:HeadBucket"]
        if "s3:DeleteObject" in actions:
            one["Resource"] = [*one["Resource"], f"arn:aws:s3:::{VALUES['S3_BUCKET']}"]
    return json.dumps(policy)


async def users(aws: AwsSettings) -> dict[str, dict[str, str]]:
    """A user with the policy of each role, by the variables of its key; others are refused then."""
    keys: dict[str, dict[str, str]] = {}
    session = aioboto3.Session(region_name=aws.aws_region)
    async with session.client("iam", endpoint_url=aws.aws_endpoint_url) as iam:
        for role in ROLES:
            await iam.create_user(UserName=role)
            policy = for_moto(document(role))
            await iam.put_user_policy(UserName=role, PolicyName="stores", PolicyDocument=policy)
            key = (await iam.create_access_key(UserName=role))["AccessKey"]
            keys[role] = {
                "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            }
    async with httpx.AsyncClient() as client:
        # So many calls go unchecked from now on.
        answer = await client.post(
            f"{aws.aws_endpoint_url}/moto-api/reset-auth",
            content="0",
            headers={"Content-Type": "text/plain"},
        )
        answer.raise_for_status()
    return keys


class Feed:
    """A small market in the platform's logs."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._ticks = [TickStream(key, shard_count=SHARDS) for key in (BOOK, TRADES)]
        self._raw = RawStream(TRADES)

    async def publish(self) -> None:
        for stream in self._ticks:
            for record in stream.many(5):
                await self._publisher.send(record)
        await self._publisher.send(raw_message(self._raw.match(self._raw.seq + 1)))
        await self._publisher.flush()


async def snapshotter_at_work(platform: Platform, calls: Calls) -> None:
    """The service itself, twice, and by hand what it does after a crash and with large objects."""
    snapshotter = partial(platform.snapshotter, environment="production", checkpoint_period_s=0.01)
    async with platform.publisher() as (_broker, publisher):
        feed = Feed(publisher)

        async def checkpoints_are_removed() -> bool:
            await feed.publish()
            return any(
                call.operation == "DeleteObjects" and "/checkpoints/" in call.resource
                for call in calls.made
            )

        async def a_row_is_told_of_its_checkpoint() -> bool:
            if any(call.operation == "UpdateItem" for call in calls.made):
                return True
            await feed.publish()
            return False

        async with snapshotter():
            await eventually(checkpoints_are_removed)
            # Slowly, as that is done where the row was written and nothing came since.
            await eventually(a_row_is_told_of_its_checkpoint, every=0.2)
        async with snapshotter():
            await feed.publish()
    async with Bucket(platform.aws) as bucket:
        await unfinished_commit(bucket)
    for prefix in ("ticks", "checkpoints"):
        await large_objects(platform.aws, f"{prefix}/large")


async def unfinished_commit(bucket: Bucket) -> None:
    """What a crash between plan and commit leaves: a second object without the first one."""
    log = "settled"
    spans = [Span(Position(1, n), Head(Position(1, n), ""), 1) for n in (1, 2)]
    for folder in ("ticks", "raw"):
        objects = [
            IndexedObject(f"{folder}/{n}.jsonl.gz", {"stream": span})
            for n, span in enumerate(spans)
        ]
        await bucket.put(objects[1].key, b"x", "application/gzip")
        pending = next_commit(log, None, objects, START)
        await bucket.put(pending_key(log), pack_commit(pending), "application/gzip")
        await ArchiveLog(bucket, log).restore()
        assert not await bucket.exists(objects[1].key)


async def large_objects(aws: AwsSettings, key: str) -> None:
    part = 5 * 1024 * 1024
    async with S3Store(aws, part_bytes=part) as store:
        await store.put(key, bytes(2 * part + 1), "application/gzip")
    # Parts below S3's least size: the upload is refused at its end, and aborted.
    async with S3Store(aws, part_bytes=1024) as store:
        with pytest.raises(StoreUnavailable):
            await store.put(key, bytes(4096), "application/gzip")


async def gateway_at_work(platform: Platform) -> None:
    """All that the gateway can ask: it has its stores by these three ports only."""
    ports = (LatestReader, CheckpointReader, ArchiveReader)
    methods = set().union(*(port.__abstractmethods__ for port in ports))
    assert methods == {"get", "get_many", "get_checkpoint", "read", "reached"}
    async with DynamoLatestReader(platform.aws) as latest, S3Store(platform.aws) as store:
        row = await latest.get(BOOK)
        assert row is not None
        assert set(await latest.get_many([BOOK, TRADES])) == {BOOK, TRADES}
        assert row.checkpoint is not None
        assert await store.get_checkpoint(row.checkpoint) is not None
        archive = S3ArchiveReader(store)
        payloads = archive.read(TRADES, row.shard, Position(0, 0))
        assert [payload async for payload in payloads]
        assert await archive.reached(TRADES, row.shard, 0) is None


async def operator_at_work(platform: Platform) -> None:
    """`mdf doctor` and `mdf replay s3://`."""
    for finding in (await check_table(platform.aws), await check_bucket(platform.aws)):
        assert finding.level == "ok", finding
    async with S3Store(platform.aws) as store:
        source = ArchiveSource(S3Objects(store), Selection(channels=frozenset({"trades"})))
        assert [record async for record in source.records()]


async def test_each_policy_allows_what_its_service_does_and_nothing_else(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()
    made: dict[str, set[Call]] = {}
    work = {
        "snapshotter": lambda: snapshotter_at_work(platform, calls),
        "gateway": lambda: gateway_at_work(platform),
        "operator": lambda: operator_at_work(platform),
    }
    keys = await users(platform.aws)
    with noting(calls, monkeypatch):
        for role in ROLES:
            for name, value in keys[role].items():
                monkeypatch.setenv(name, value)
            await work[role]()
            made[role], calls.made = calls.made, set()
    # The server does look: the environment still has the operator's key.
    async with S3Store(platform.aws) as store:
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            await store.put("ticks/x", b"x", "text/plain")
        with pytest.raises(StoreUnavailable, match="AccessDenied: 2 of 2 not deleted"):
            await store.delete(["ticks/large", "checkpoints/large"])
    for role in ROLES:
        statements = document(role)["Statement"]
        denied = {call for call in made[role] if not allowing(call, statements)}
        assert denied == set(), role
        for one in statements:
            used = [call for call in made[role] if allowing(call, [one])]
            assert set(as_list(one["Action"])) == {call.action for call in used}, one["Sid"]
            for pattern in as_list(one["Resource"]):
                assert any(fnmatchcase(call.resource, pattern) for call in used), pattern
    # The code holds no call that was not made here.
    noted = {call.operation for role in ROLES for call in made[role]}
    assert operations_in_code() - noted == DEVELOPMENT
    assert noted - operations_in_code() == set()


def operations_in_code() -> set[str]:
    """Operations of DynamoDB and S3 that some module calls."""
    loader = botocore.session.get_session()
    names = {
        xform_name(operation): operation
        for service in ("dynamodb", "s3")
        for operation in loader.get_service_model(service).operation_names
    }
    folders = ("services/common", "services/snapshotter", "services/gateway", "tools")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return {
        names[node.func.attr]
        for file in files
        if "tests" not in file.parts and not file.name.startswith("testing")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and {keyword.arg for keyword in node.keywords} & {"Bucket", "TableName", "RequestItems"}
    }
