"""The environment of a service: its settings, or `SettingsError` with a line for each problem.

One `NAME=value` a line, for each of the four services; no problem shows a secret.
"""

from __future__ import annotations

import os

from services.common.errors import SettingsError
from services.common.settings import CommonSettings, load
from services.gateway.settings import GatewaySettings
from services.ingestor.settings import Settings
from services.normalizer.settings import NormalizerSettings
from services.snapshotter.settings import SnapshotterSettings

_SERVICES: tuple[type[CommonSettings], ...] = (
    *(GatewaySettings, Settings, NormalizerSettings, SnapshotterSettings),
)
_NAMES = {name.upper() for service in _SERVICES for name in service.model_fields}
_SECRET = "not-to-be-told"


def _load(service: type[CommonSettings]) -> None:
    try:
        load(service)
    except SettingsError as refused:
        told = "\n".join(refused.problems)
    else:
        return
    assert told
    assert _SECRET not in told


def check(data: bytes) -> None:
    lines = data.replace(b"\0", b"").decode(errors="surrogateescape").split("\n")
    given = dict(line.partition("=")[::2] for line in lines)
    # A file that is named is opened: none of this machine's.
    known = {name: given[name] for name in given if name in _NAMES and "FILE" not in name}
    before = dict(os.environ)
    try:
        os.environ.update(known, NATS_PASSWORD=_SECRET)
        for service in _SERVICES:
            _load(service)
    finally:
        os.environ.clear()
        os.environ.update(before)


SEEDS = (
    b"NATS_URLS=nats://a:4222,tls://b\nNATS_USER=u\nSHARD_COUNT=8\nJS_REPLICAS=3",
    b"BROKER_KIND=redis\nREDIS_URL=rediss://a:6379/0\nSTREAM_NAME=market\nHTTP_PORT=0",
    b"AUTH_API_KEYS=a,sha256:00;name=x;products=BTC-*|ETH-USD;connections=2;commands=1.5",
    b"TRUSTED_PROXIES=10.0.0.0/8,fd00::/8\nALLOWED_ORIGINS=https://a.example\nWEB_CONCURRENCY=2",
    b"COINBASE_PRODUCTS=BTC-USD,ETH-USD\nCOINBASE_CHANNELS=ticker,matches\nPULSE_PERIOD_MS=1000",
    b"SHARDS=0-3,5\nENVIRONMENT=production\nLOG_LEVEL=debug\nOTEL_TRACES_SAMPLER_ARG=0.5",
    b"ARCHIVE_MAX_BYTES=1000\nS3_BUCKET=b\nDDB_TABLE=t\nSNAPSHOT_PERIOD_MS=5",
)
