"""A real Prometheus on this machine, and the questions that are put to it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any, Self

import httpx
import yaml

from services.common.testing.waiting import eventually
from tools.dev.charts.workspace import ROOT
from tools.dev.observability.rules import RULES
from tools.embedded import EmbeddedServer


class PrometheusMissing(Exception):
    def __init__(self) -> None:
        super().__init__("prometheus was not found (Debian: apt-get install prometheus)")


class Prometheus(EmbeddedServer):
    """Has the repository's rules, and scrapes `targets` (service: host:port) every second.

    Raises:
        PrometheusMissing: there is no such program here.
    """

    name = "prometheus"

    def __init__(self, targets: Mapping[str, str]) -> None:
        self._binary = shutil.which("prometheus")
        if self._binary is None:
            raise PrometheusMissing
        super().__init__()
        self._config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
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

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        config = self.data_dir / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config))
        return [
            str(self._binary),
            f"--config.file={config}",
            f"--storage.tsdb.path={self.data_dir / 'tsdb'}",
            f"--web.listen-address={self.host}:{self.port}",
            "--enable-feature=exemplar-storage",
        ]

    async def start(self) -> Self:
        """Start it and return once it takes questions."""
        await super().start()
        await eventually(self._ready, "prometheus' readiness", every=0.1)
        return self

    async def _ready(self) -> bool:
        async with self._client() as client:
            return (await client.get("/-/ready")).status_code == httpx.codes.OK

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
        answer = await self._get("/api/v1/alerts")
        return sorted(
            {one["labels"]["alertname"] for one in answer["alerts"] if one["state"] == state}
        )

    async def targets_up(self) -> int:
        answer = await self._get("/api/v1/targets")
        return sum(target["health"] == "up" for target in answer["activeTargets"])

    async def exemplars(self, selector: str) -> int:
        """How many exemplars are held of series that match."""
        answer = await self._get(
            "/api/v1/query_exemplars", query=selector, start="0", end="9999999999"
        )
        return sum(len(series["exemplars"]) for series in answer)

    async def _get(self, path: str, **parameters: str) -> Any:
        async with self._client() as client:
            answer = await client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=10, trust_env=False)
