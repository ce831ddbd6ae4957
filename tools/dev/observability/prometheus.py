"""A real Prometheus on this machine, and the questions that are put to it."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tools.dev.charts.workspace import ROOT
from tools.dev.observability.rules import RULES
from tools.embedded.ports import free_port
from tools.embedded.process import die_with_parent

_START_S = 30.0


class PrometheusMissing(Exception):
    """The binary is not on this machine."""

    def __init__(self) -> None:
        super().__init__("prometheus was not found (Debian: apt-get install prometheus)")


class Prometheus:
    """Ask a running server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=10, trust_env=False)

    async def query(self, expression: str) -> list[float]:
        """Values of an instant query; NaN where a quantile had nothing to look at.

        Raises:
            httpx.HTTPStatusError: the query is malformed.
        """
        answer = await self._get("/api/v1/query", query=expression)
        return [float(sample["value"][1]) for sample in answer["result"]]

    async def total(self, expression: str) -> float:
        """The sum of an instant query's values; NaN counts as nothing."""
        return sum(value for value in await self.query(expression) if not math.isnan(value))

    async def alerts(self, state: str = "firing") -> list[str]:
        """Alerts that are in this state now."""
        answer = await self._get("/api/v1/alerts")
        return sorted(
            {one["labels"]["alertname"] for one in answer["alerts"] if one["state"] == state}
        )

    async def targets_up(self) -> int:
        """How many targets answered their last scrape."""
        answer = await self._get("/api/v1/targets")
        return sum(target["health"] == "up" for target in answer["activeTargets"])

    async def exemplars(self, selector: str) -> int:
        """How many exemplars are held of series that match."""
        answer = await self._get(
            "/api/v1/query_exemplars", query=selector, start="0", end="9999999999"
        )
        return sum(len(series["exemplars"]) for series in answer)

    async def _get(self, path: str, **parameters: str) -> Any:
        answer = await self._client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            return (await self._client.get("/-/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def running_prometheus(
    targets: Mapping[str, str], folder: Path, interval: str = "1s"
) -> AsyncIterator[Prometheus]:
    """Prometheus with the repository's rules, scraping `targets` (service: host:port).

    Raises:
        PrometheusMissing: there is no such program here.
        TimeoutError: it did not come up.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise PrometheusMissing
    config = folder / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": interval, "evaluation_interval": interval},
                "rule_files": [str(ROOT / RULES)],
                "scrape_configs": [
                    {
                        "job_name": "market-data",
                        "static_configs": [
                            {"targets": [address], "labels": {"service": service}}
                            for service, address in targets.items()
                        ],
                    }
                ],
            }
        )
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        async with asyncio.timeout(_START_S):
            while not await server.ready():  # noqa: ASYNC110 - another process, no Event
                await asyncio.sleep(0.1)
        yield server
    finally:
        await server.aclose()
        if process.returncode is None:
            process.terminate()
        await process.wait()
