"""Clients of DynamoDB and S3: one place for credentials, transport, time limits and errors.

Credentials come from the SDK's default chain (environment, IRSA's web identity, EKS Pod Identity,
instance profile) and are refreshed by it; settings never hold any. Transport is TLS unless an
endpoint override says `http://` (local stores). The SDK's own retries are for readers only: the
snapshotter's writers own theirs, because they know what may wait and what is newer by now.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError
from botocore.loaders import Loader

from services.common.errors import PlatformError, StoreMissing, StoreUnavailable
from services.common.settings import AwsSettings

DYNAMODB: Final = "dynamodb"
S3: Final = "s3"

# What each answer of DynamoDB's is, and what no other server's 200 says it is. An empty object is
# how it says that there is no such row, so the body alone cannot tell.
_JSON = "amz-json"
# What S3 says in each answer to these, one of it at least.
_SAYS = {
    "GetObject": {"ETag"},
    "HeadObject": {"ETag"},
    "PutObject": {"ETag"},
    "UploadPart": {"ETag"},
    "CreateMultipartUpload": {"UploadId"},
    "CompleteMultipartUpload": {"ETag"},
    "ListObjectsV2": {"IsTruncated"},
    "DeleteObjects": {"Deleted", "Errors"},
}
_MISSING = {"ResourceNotFoundException", "NoSuchBucket"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client waits and how much it does at once."""

    connect_s: float  # for a connection, TLS included
    read_s: float  # for each read of an answer
    attempts: int  # calls in all that the SDK makes for one of ours; 1 means no retry
    connections: int  # size of the pool; callers beyond it wait


# Somebody waits for a reader's answer, so it fails soon and lets the caller choose another way.
READER = Limits(connect_s=1.0, read_s=3.0, attempts=3, connections=64)
# A row that could not be written is overtaken by the next one; waiting long for it is no use.
ROW_WRITER = Limits(connect_s=2.0, read_s=3.0, attempts=1, connections=64)
# A batch of some megabytes over a slow line takes seconds.
OBJECT_WRITER = Limits(connect_s=2.0, read_s=20.0, attempts=1, connections=16)


@contextlib.asynccontextmanager
async def open_client(
    service: Literal["dynamodb", "s3"], aws: AwsSettings, limits: Limits
) -> AsyncIterator[Any]:
    """A low-level client of `service` while the block runs. Nothing is sent yet."""
    endpoint = aws.aws_endpoint_url
    options: dict[str, Any] = {}
    if service == S3 and endpoint is not None:
        # Stand-ins and private stores have no DNS name per bucket, and often no trailing checksums.
        options["s3"] = {"addressing_style": "path"}
        options["request_checksum_calculation"] = "when_required"
        options["response_checksum_validation"] = "when_required"
    config = AioConfig(
        connect_timeout=limits.connect_s,
        read_timeout=limits.read_s,
        max_pool_connections=limits.connections,
        retries={"mode": "standard", "total_max_attempts": limits.attempts},
        tcp_keepalive=True,
        user_agent_extra="market-data-fanout",
        **options,
    )
    session = get_session()
    session.register_component("data_loader", _descriptions())
    async with session.create_client(
        service, region_name=aws.aws_region, endpoint_url=endpoint, config=config
    ) as client:
        client.meta.events.register("after-call", _check_answer)
        yield client


@functools.cache
def _descriptions() -> Loader:
    """Reads the SDK's descriptions of the services, megabytes of JSON, once for all clients."""
    loader: Loader = get_session().get_component("data_loader")
    return loader


class AwsStore[Client]:
    """What a table and a bucket share: a client of the service, while the store is open."""

    def __init__(
        self, service: Literal["dynamodb", "s3"], aws: AwsSettings, limits: Limits
    ) -> None:
        self._service: Literal["dynamodb", "s3"] = service
        self._aws = aws
        self._limits = limits
        self._stack = contextlib.AsyncExitStack()
        self._client: Client | None = None

    def open_client(self) -> contextlib.AbstractAsyncContextManager[Client]:
        """A client of the service; who stands in for the service gives one of its own."""
        return open_client(self._service, self._aws, self._limits)

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(self.open_client())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._client = None
        await self._stack.aclose()

    @property
    def client(self) -> Client:
        """Raises StoreUnavailable while the store is not open."""
        if self._client is None:
            raise StoreUnavailable(self._service, "the store is not open")
        return self._client


def _check_answer(http_response: Any, parsed: Any, model: Any, **_more: object) -> None:
    """Raise StoreUnavailable where somebody else answered (a proxy, a sign-in page) with a 200.

    The SDK makes an empty answer of whatever it does not know, which says "nothing there".
    """
    if http_response.status_code >= 300:
        return
    kind = str(http_response.headers.get("content-type", ""))
    if model.service_model.service_name == DYNAMODB:
        ours = _JSON in kind
    else:
        says = _SAYS.get(model.name)
        ours = says is None or not says.isdisjoint(parsed)
    if not ours:
        store, name = model.service_model.service_name, model.name
        raise StoreUnavailable(store, f"{name}: no answer of {store} but some {kind or 'bytes'}")


@contextlib.contextmanager
def translated(store: str, name: str) -> Iterator[None]:
    """Turn the errors of SDK calls, and of nothing else, into ours; `name` is the table or bucket.

    Raises:
        StoreMissing: the table or bucket does not exist.
        StoreUnavailable: no answer, throttled, refused: trying again later may help.
    """
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in _MISSING:
            raise StoreMissing(store, name) from error
        message = error.response.get("Error", {}).get("Message", "")
        raise StoreUnavailable(store, f"{code}: {message} ({name})") from error
    except PlatformError:
        raise
    # The SDK raises from many families: its own, the HTTP client's, parsers' and codecs' over
    # what a proxy says in the store's place. None of them may end more than the call.
    except Exception as error:
        raise StoreUnavailable(store, f"{type(error).__name__}: {error}") from error


async def answered(call: Awaitable[object], *, unless: Collection[str]) -> bool:
    """Whether the call was done; False where the service says one of these codes instead."""
    try:
        await call
    except ClientError as error:
        if error_code(error) in unless:
            return False
        raise
    return True


def error_code(error: ClientError) -> str:
    """The service's word for what went wrong, such as `ConditionalCheckFailedException`."""
    return str(error.response.get("Error", {}).get("Code", ""))
