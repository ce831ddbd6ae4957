"""What services write and export while hostile clients are connected and secrets are set."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from services.common.testing.waiting import eventually
from tests.stack_process import running_subscriber
from tools.dev.observability.metrics_table import BOUNDS
from tools.simulator.protocol.auth import Credentials
from tools.stack import Stack, StackOptions
from tools.stack.options import SERVICES
from tools.subscriber import Subscriber, Want

pytestmark = pytest.mark.e2e

PRODUCTS = ("BTC-USD", "ETH-USD")
SECRETS = {
    "AUTH_API_KEYS": "client-key-c0ffee",
    "ADMIN_API_KEY": "admin-key-c0ffee",
    # The only ones the simulated exchange takes.
    "COINBASE_API_KEY": Credentials().key,
    "COINBASE_API_SECRET": Credentials().secret,
    "COINBASE_API_PASSPHRASE": Credentials().passphrase,
}
HOSTILE = "evil-5f3759df"
# Labels whose every value is known, and patterns for the others.
VALUES = {
    "venue": {"coinbase"},
    "channel": {"ticker", "trades", "book"},
    "product": set(PRODUCTS),
    "stage": {"venue", "raw_log", "tick_log"},
}
PATTERNS = {
    "shard": r"\d+(-\d+)?|all",
    "log": r"raw|tick\.\d+|invalid",
    "check": r"[a-z][a-z0-9_]*|(shard|worker)-\d+",
    "feed": r"coinbase-\d+",
    "code": r"\d{4}",
}
WORD = r"[a-z][a-z0-9_]*"
MOST_SERIES = 3000


async def be_hostile(url: str) -> None:
    """Ask for what does not exist, in many ways, and send what is no command."""
    async with connect(f"{url}?api_key={SECRETS['AUTH_API_KEYS']}", proxy=None) as client:
        for number in range(40):
            word = f"{HOSTILE}-{number}"
            for message in (
                {"type": "subscribe", "product": word},
                {"type": "subscribe", "product": "BTC-USD", "channel": word},
                {"type": "subscribe", "product": "BTC-USD", "venue": word},
                {"type": word},
                {"type": "resync", "product": word, "channel": word},
            ):
                await client.send(json.dumps(message))
        await client.send(HOSTILE)
        await client.send(json.dumps({"type": "auth", "api_key": f"{HOSTILE}-key"}))
        await client.send(json.dumps({"type": "ping", "id": "last"}))
        async with asyncio.timeout(30):
            while json.loads(await client.recv()).get("type") != "pong":
                pass
    async with connect(f"{url}?api_key={HOSTILE}-wrong", proxy=None) as client:
        await client.recv()


async def test_neither_logs_nor_labels_hold_what_peers_send_or_what_is_secret(
    tmp_path: Path,
) -> None:
    options = StackOptions(
        products=PRODUCTS, run_dir=tmp_path, environment={"*": {**SECRETS, "LOG_LEVEL": "INFO"}}
    )
    async with Stack(options) as stack:
        subscriber = Subscriber(
            stack.gateway_url,
            [Want(channel, PRODUCTS) for channel in ("ticker", "trades", "book")],
            api_key=SECRETS["AUTH_API_KEYS"],
        )
        async with running_subscriber(subscriber):
            await be_hostile(stack.gateway_url)
            await eventually(lambda: subscriber.counts("ticker").applied > 20)
            async with httpx.AsyncClient(trust_env=False) as client:
                await client.get(f"{stack.url('gateway')}/v1/snapshot/{HOSTILE}?channel={HOSTILE}")
                texts = {
                    name: (await client.get(f"{stack.url(name)}/metrics")).text for name in SERVICES
                }
        logs = {name: stack.services[name].log_file.read_text() for name in SERVICES}

    for name, text in texts.items():
        assert unbounded(text) == [], name
        assert len([line for line in text.splitlines() if line[0] != "#"]) < MOST_SERIES, name
    for name, text in logs.items():
        for secret in SECRETS.values():
            assert secret not in text, name
        assert f"{HOSTILE}-key" not in text
        assert f"{HOSTILE}-wrong" not in text
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        assert lines, name
        for line in lines:
            assert line["service"] == name
            assert {"event", "level", "timestamp"} <= line.keys()
            # A library's own words have a `logger`; ours have names.
            assert "logger" in line or re.fullmatch(WORD, line["event"]), line
            assert len(json.dumps(line)) < 4000, line["event"]
            assert not {"bids", "asks", "changes", "last_trade"} & set(
                re.findall(r"\w+", str(line))
            )


def unbounded(exposition: str) -> list[str]:
    """Labels that are not bounded as `docs/metrics.md` says."""
    wrong = set()
    for family in text_string_to_metric_families(exposition):
        if not family.name.startswith("md_"):
            continue
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label == "le":
                    continue
                known = value in VALUES.get(label, ()) or (
                    label not in VALUES and re.fullmatch(PATTERNS.get(label, WORD), value)
                )
                if label not in BOUNDS or not known or HOSTILE in value:
                    wrong.add(f"{family.name}{{{label}={value!r}}}")
    return sorted(wrong)
