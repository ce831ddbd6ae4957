"""The charts of one checkout: where they are, how they are built, what they render to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tools.dev.charts.helm import Helm

type Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
CHARTS = (*SERVICES, "nats")
UMBRELLA = "market-data-fanout"
# What goes on top of a file by `--set`, as helm/README.md says it.
_KEDA = (
    "gateway.autoscaling.enabled=true",
    "gateway.autoscaling.kind=keda",
    "gateway.autoscaling.targetConnections=5000",
    "gateway.metrics.serviceMonitor.enabled=true",
)
_ROLLOUTS = ("gateway.canary.enabled=true", "gateway.metrics.serviceMonitor.enabled=true")
_EXTERNAL_NATS = (
    "nats.enabled=false",
    "global.natsCredsSecret=market-data-nats-creds",
    r"global.settings.NATS_URLS=nats://nats-0.nats.example.com:4222\,nats://nats-1.nats.example.com:4222",
)
# The values a release can be made of, by name: files of the umbrella and `--set` pairs, each over
# the one before. Its values.yaml lies under all of them.
PROFILES: dict[str, tuple[str, ...]] = {
    "values": (),
    "dev": ("values-dev.yaml",),
    "staging": ("values-staging.yaml",),
    "production": ("values-production.yaml",),
    "production-keda": ("values-production.yaml", *_KEDA),
    "production-rollouts": ("values-production.yaml", *_ROLLOUTS),
    "production-keda-rollouts": ("values-production.yaml", *_KEDA, *_ROLLOUTS),
    "external-nats": _EXTERNAL_NATS,
    "redis": ("values-redis.yaml",),
}


class Workspace:
    """`root` holds `helm/` and `charts/`. Building writes only what git ignores."""

    def __init__(self, helm: Helm, root: Path = ROOT) -> None:
        self.helm = helm
        self.root = root

    @classmethod
    def copy(cls, helm: Helm, target: Path) -> Workspace:
        """The repository's charts in a folder of their own, without anything built before."""
        for folder in ("helm", "charts"):
            shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("*.tgz"))
        return cls(helm, target)

    def chart(self, name: str) -> Path:
        """The folder of a service's chart, or of the umbrella."""
        return self.root / ("charts" if name == UMBRELLA else "helm") / name

    def build(self) -> int:
        """Pack the library into each chart, then the charts into the umbrella; how many were built.

        `helm dependency build` is not recursive: the umbrella alone would get charts without their
        library.
        """
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._build, CHARTS))
        self._build(UMBRELLA)
        return len(CHARTS) + 1

    def _build(self, name: str) -> None:
        self.helm.run("dependency", "build", str(self.chart(name)))

    def lint(self, name: str, *values: Path | str) -> None:
        """Raise HelmFailed unless the chart is without fault and warning."""
        self.helm.run("lint", "--strict", "--quiet", str(self.chart(name)), *_files(values))

    def render(
        self,
        name: str,
        *values: Path | str,
        settings: Mapping[str, str] | None = None,
        release: str = "market-data",
        namespace: str = "market-data",
        options: Sequence[str] = (),
    ) -> list[Object]:
        """The objects of a release, in the order helm would apply them.

        `values` are files and `--set` pairs; `settings` more of these: {"gateway.replicas": "3"}.

        Raises:
            HelmFailed: a template, the schema or a guard refuses.
        """
        pairs = [part for item in (settings or {}).items() for part in ("--set", "=".join(item))]
        text = self.helm.run(
            *("template", release, str(self.chart(name)), "--namespace", namespace),
            *_files(values),
            *pairs,
            *options,
        )
        return [document for document in yaml.safe_load_all(text) if document]

    def profile(self, name: str) -> tuple[Path | str, ...]:
        """The values files and `--set` pairs of one of `PROFILES`."""
        return tuple(one if "=" in one else self.chart(UMBRELLA) / one for one in PROFILES[name])


def _files(values: Iterable[Path | str]) -> list[str]:
    return [
        part
        for one in values
        for part in ("--values" if isinstance(one, Path) else "--set", str(one))
    ]
