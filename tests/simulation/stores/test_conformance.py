"""The models are held to what the stores are held to: the same tests, without a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.settings import AwsSettings
from services.common.stores.aws import DYNAMODB, AwsStore
from services.common.stores.rows import KEY
from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.testing.proxy import Proxy
from services.common.tests import test_stores_aws as reading
from services.snapshotter.testing import Platform
from services.snapshotter.tests import test_ddb as writing
from services.snapshotter.tests import test_snapshotter as serving
from services.snapshotter.tests import test_snapshotter_crashes as crashing
from tests.simulation.stores.dynamodb import DynamoModel
from tests.simulation.stores.s3 import S3Model

# Where a server is cut off, or a broker is a real one, nothing is asked of a store's model.
_LEFT_OUT = {
    "test_stores_that_do_not_answer_are_unavailable",
    "test_stop_is_prompt_while_the_stores_are_away",
    "test_on_a_real_broker_crash_and_restart_lose_nothing",
    "test_a_group_that_broke_ends_the_snapshotter_and_the_next_one_loses_nothing",
    "test_sigkill_at_random_moments_under_load_loses_nothing_and_archives_nothing_twice",
    "test_readiness_tells_of_a_log_that_is_not_taken_though_the_broker_answers",
}
for _module in (reading, writing, serving, crashing):
    globals().update(
        (name, test)
        for name, test in vars(_module).items()
        if name.startswith("test_") and name not in _LEFT_OUT
    )
store, rows = reading.store, writing.rows


class _Direct:
    """A client whose requests take a turn of the loop."""

    def __init__(self, model: DynamoModel | S3Model) -> None:
        self._model = model

    def __getattr__(self, operation: str) -> Any:
        async def call(**asked: Any) -> Any:
            await asyncio.sleep(0)
            return getattr(self._model, operation)(**asked)

        return call


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What every store asks in this file."""
    made: dict[str, DynamoModel | S3Model] = {
        "dynamodb": DynamoModel(time.monotonic),
        "s3": S3Model(),
    }

    @asynccontextmanager
    async def opened(asked: AwsStore[Any]) -> AsyncIterator[_Direct]:
        yield _Direct(made[asked._service])

    monkeypatch.setattr(AwsStore, "open_client", opened)
    return made


@pytest.fixture
def aws() -> AwsSettings:
    return AwsSettings()


@pytest.fixture
async def table(aws: AwsSettings, models: dict[str, Any]) -> _Direct:
    client = _Direct(models[DYNAMODB])
    await client.create_table(TableName=aws.ddb_table, KeySchema=[{"AttributeName": KEY}])
    return client


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    server = MemoryServer()
    async with Platform("http://model", Proxy(0), lambda: MemoryBroker(server)) as opened:
        yield opened
