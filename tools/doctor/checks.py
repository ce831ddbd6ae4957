"""The checks of `mdf doctor`: each says what it looked at, what it found, and what to do."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic_settings import BaseSettings
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from services.common.errors import (
    BrokerError,
    BrokerUnavailable,
    SettingsError,
    StoreError,
    StoreMissing,
)
from services.common.network.proxies import BadProxy, proxy_for
from services.common.settings import AwsSettings, CommonSettings, load
from services.common.stores.aws import DYNAMODB, READER, S3, open_client, translated
from services.common.stream import Broker
from services.common.stream.factory import open_broker
from services.common.subjects import RAW_LOG, is_pulse
from services.gateway.settings import GatewaySettings
from services.ingestor.feed.rest_call import open_http
from services.ingestor.settings import Settings as IngestorSettings
from services.normalizer.settings import NormalizerSettings
from services.snapshotter.settings import SnapshotterSettings
from tools.doctor import Finding
from tools.doctor.brokers import check_server
from tools.doctor.network import Endpoint, check_networks

SETTINGS: dict[str, type[CommonSettings]] = {
    "ingestor": IngestorSettings,
    "normalizer": NormalizerSettings,
    "snapshotter": SnapshotterSettings,
    "gateway": GatewaySettings,
}
_TIMEOUT_S = 5.0
# Latencies and "how old is this" are computed across machines; beyond this they mislead.
_SKEW_WARNING_S = 1.0
# The venue's Date header has whole seconds.
_DATE_RESOLUTION_S = 1.0


def check_settings(service: str) -> tuple[Finding, CommonSettings | None]:
    name = f"settings of {service}"
    try:
        loaded = load(SETTINGS[service])
    except SettingsError as error:
        return Finding(name, "error", "; ".join(error.problems), "correct these variables"), None
    given = sum(field in loaded.model_fields_set for field in type(loaded).model_fields)
    return Finding(name, "ok", f"{given} variables set, the rest by default"), loaded


async def check_broker(settings: CommonSettings) -> Finding:
    """Open the configured broker and have it answer."""
    if settings.broker_kind == "memory":
        return Finding("broker", "warning", "memory", "several processes need nats or redis")
    where = settings.redis_url if settings.broker_kind == "redis" else ",".join(settings.nats_urls)
    name = f"broker ({settings.broker_kind})"
    variable = "REDIS_URL" if settings.broker_kind == "redis" else "NATS_URLS"
    advice = f"start it, or point {variable} at it"
    try:
        async with asyncio.timeout(_TIMEOUT_S), open_broker(settings) as broker:
            await broker.ping()
            found = await _raw_log(broker)
    except TimeoutError:
        return Finding(name, "error", f"{_host(where)}: no answer in {_TIMEOUT_S:.0f} s", advice)
    except BrokerError as error:
        return Finding(name, "error", str(error), advice)
    return Finding(name, "ok", f"{_host(where)}: {found}")


async def _raw_log(broker: Broker) -> str:
    try:
        subjects = await broker.subjects(RAW_LOG)
    except BrokerUnavailable:
        # It has just answered a ping, so it is the log that is missing: no service ran yet.
        return "no logs yet, the services make them"
    return f"{sum(not is_pulse(subject) for subject in subjects)} raw streams"


async def check_table(settings: AwsSettings) -> Finding:
    """Whether the table of latest rows is there."""
    try:
        async with open_client(DYNAMODB, settings, READER) as client:
            with translated("dynamodb", settings.ddb_table):
                answer = await client.describe_table(TableName=settings.ddb_table)
    except StoreError as error:
        return _store_finding("dynamodb", error, "DDB_TABLE")
    rows = answer["Table"].get("ItemCount", 0)
    return Finding("dynamodb", "ok", f"{settings.ddb_table}: about {rows} rows")


async def check_bucket(settings: AwsSettings) -> Finding:
    """Whether the archive's bucket is there and may be listed."""
    try:
        async with open_client(S3, settings, READER) as client:
            with translated("s3", settings.s3_bucket):
                await client.list_objects_v2(Bucket=settings.s3_bucket, MaxKeys=1)
    except StoreError as error:
        return _store_finding("s3", error, "S3_BUCKET")
    return Finding("s3", "ok", settings.s3_bucket)


def _store_finding(name: str, error: StoreError, variable: str) -> Finding:
    if isinstance(error, StoreMissing):
        return Finding(
            name, "warning", str(error), f"the snapshotter makes it; else check {variable}"
        )
    return Finding(name, "error", str(error), "check AWS_ENDPOINT_URL, region and credentials")


async def check_venue_rest(url: str) -> list[Finding]:
    """Whether the venue's REST API answers, and how far its clock is from ours."""
    try:
        async with open_http(url, _TIMEOUT_S) as client:
            asked = time.time()
            answer = await client.get("/products")
            received = time.time()
            answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL, BadProxy) as error:
        text = f"{_host(url)}: {type(error).__name__} {error}".rstrip()
        return [Finding("venue REST", "error", text, "check COINBASE_REST_URL, proxy and DNS")]
    found = Finding("venue REST", "ok", f"{_host(url)}: {(received - asked) * 1000:.0f} ms")
    date = answer.headers.get("date")
    if date is None:
        return [found]
    return [found, clock_finding(parsedate_to_datetime(date).timestamp(), asked, received)]


def clock_finding(theirs: float, asked: float, received: float) -> Finding:
    """Judge this machine's clock by a `Date` header (whole seconds, cut) of an answer."""
    # The header stands for any instant inside its second, taken between question and answer.
    ahead = max(0.0, asked - (theirs + _DATE_RESOLUTION_S))
    behind = max(0.0, theirs - received)
    if max(ahead, behind) > _SKEW_WARNING_S:
        how = f"{ahead:.1f} s ahead" if ahead else f"{behind:.1f} s behind"
        return Finding("clock", "warning", f"{how} of the venue's", "run a time service (NTP)")
    return Finding("clock", "ok", "within a second of the venue's")


async def check_venue_ws(url: str) -> Finding:
    """Whether the venue's WebSocket endpoint accepts a connection."""
    began = time.monotonic()
    try:
        async with connect(url, open_timeout=_TIMEOUT_S, close_timeout=1, proxy=proxy_for(url)):
            took = (time.monotonic() - began) * 1000
    except (OSError, TimeoutError, WebSocketException, BadProxy) as error:
        text = f"{_host(url)}: {type(error).__name__} {error}".rstrip()
        return Finding("venue WebSocket", "error", text, "check COINBASE_WS_PRIMARY, proxy and DNS")
    return Finding("venue WebSocket", "ok", f"{_host(url)}: {took:.0f} ms")


def _host(url: str) -> str:
    """The address without user and password."""
    return ",".join(urlsplit(part).netloc.rpartition("@")[2] or part for part in url.split(","))


def endpoints(loaded: Mapping[str, CommonSettings]) -> list[Endpoint]:
    """Every address that these settings lead to."""
    found: list[Endpoint] = []
    ingestor = loaded.get("ingestor")
    if isinstance(ingestor, IngestorSettings):
        found += [
            Endpoint("venue REST", ingestor.coinbase_rest_url, "COINBASE_REST_URL"),
            Endpoint("venue WebSocket", ingestor.coinbase_ws_primary, "COINBASE_WS_PRIMARY"),
        ]
        if url := ingestor.coinbase_ws_fallback:
            found.append(Endpoint("venue WebSocket, fallback", url, "COINBASE_WS_FALLBACK"))
    common = next(iter(loaded.values()), None)
    if common is not None:
        if common.broker_kind == "nats":
            tls = common.nats_tls
            found += [Endpoint("broker", url, "NATS_URLS", tls) for url in common.nats_urls]
        elif common.broker_kind == "redis":
            found.append(Endpoint("broker", common.redis_url, "REDIS_URL", common.redis_tls))
        if url := common.otel_exporter_otlp_endpoint:
            found.append(Endpoint("trace collector", url, "OTEL_EXPORTER_OTLP_ENDPOINT"))
    if (stores := _stores(loaded)) is not None:
        found += [_store_endpoint(service, stores) for service in (DYNAMODB, S3)]
    return found


def _stores(loaded: Mapping[str, BaseSettings]) -> AwsSettings | None:
    return next((one for one in loaded.values() if isinstance(one, AwsSettings)), None)


def _store_endpoint(service: str, stores: AwsSettings) -> Endpoint:
    variable = f"AWS_ENDPOINT_URL_{service.upper()}"
    given = os.environ.get(variable)
    if given:
        return Endpoint(service, given, variable)
    if stores.aws_endpoint_url:
        return Endpoint(service, stores.aws_endpoint_url, "AWS_ENDPOINT_URL")
    return Endpoint(service, f"https://{service}.{stores.aws_region}.amazonaws.com", "AWS_REGION")


_Check = Coroutine[Any, Any, Finding | list[Finding]]


async def examine() -> list[Finding]:
    """Everything, as configured by this environment, in the order of the data flow."""
    findings: list[Finding] = []
    loaded: dict[str, CommonSettings] = {}
    for service in SETTINGS:
        finding, settings = check_settings(service)
        findings.append(finding)
        if settings is not None:
            loaded[service] = settings
    checks: list[_Check] = [check_networks(endpoints(loaded))]
    ingestor = loaded.get("ingestor")
    if isinstance(ingestor, IngestorSettings):
        checks.append(check_venue_rest(ingestor.coinbase_rest_url))
        checks.append(check_venue_ws(ingestor.coinbase_ws_primary))
    if (common := next(iter(loaded.values()), None)) is not None:
        checks += [check_broker(common), check_server(common)]
    findings += await _together(checks)
    if (stores := _stores(loaded)) is not None:
        # Making a client of AWS keeps this process busy for seconds on a slow machine: whoever
        # waits for an answer meanwhile would be said not to have given one.
        findings += await _together([check_table(stores), check_bucket(stores)])
    return findings


async def _together(checks: Iterable[_Check]) -> list[Finding]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check) for check in checks]
    found: list[Finding] = []
    for task in tasks:
        result = task.result()
        found += result if isinstance(result, list) else [result]
    return found
