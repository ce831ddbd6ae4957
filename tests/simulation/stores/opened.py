"""The services' own stores over the models: only who opens the SDK's client is another."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any

from services.common.settings import AwsSettings
from services.common.stores.aws import DYNAMODB, S3, Limits
from services.common.stores.dynamodb import DynamoLatestReader
from services.common.stores.s3 import S3Store
from services.snapshotter.ddb import RowStore
from services.snapshotter.s3 import Bucket
from tests.simulation.loop import SimulatedLoop
from tests.simulation.stores.dynamodb import DynamoModel
from tests.simulation.stores.remote import Remote
from tests.simulation.stores.s3 import S3Model


class _Over:
    remote: Any
    _limits: Limits

    def open_client(self) -> AbstractAsyncContextManager[Any]:
        client: AbstractAsyncContextManager[Any] = self.remote.client(self._limits)
        return client


class _Rows(_Over, RowStore): ...


class _Latest(_Over, DynamoLatestReader): ...


class _Bucket(_Over, Bucket): ...


class _Objects(_Over, S3Store): ...


def _over[S: _Over](store: S, remote: Any) -> S:
    store.remote = remote
    return store


class Stores:
    """Both stores of one world. What they hold outlives every process."""

    def __init__(self, loop: SimulatedLoop, chance: Random) -> None:
        self.settings = AwsSettings()
        self.tables = DynamoModel(loop.time, chance)
        self.buckets = S3Model()
        self.remotes = {
            DYNAMODB: Remote(DYNAMODB, self.tables, loop, chance),
            S3: Remote(S3, self.buckets, loop, chance),
        }

    def rows(self) -> RowStore:
        return _over(_Rows(self.settings), self.remotes[DYNAMODB])

    def latest(self, *, consistent: bool = False) -> DynamoLatestReader:
        return _over(_Latest(self.settings, consistent=consistent), self.remotes[DYNAMODB])

    def bucket(self) -> Bucket:
        return _over(_Bucket(self.settings), self.remotes[S3])

    def objects(self) -> S3Store:
        return _over(_Objects(self.settings), self.remotes[S3])
