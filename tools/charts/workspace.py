"""The charts of one checkout: where they are, how they are built, what they render to."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tools.charts.helm import Helm

type Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
CHARTS = (*SERVICES, "nats")
UMBRELLA = "market-data-fanout"
# The values a release can be made of; the umbrella's values.yaml lies under each.
PROFILES = ("values.yaml", "values-dev.yaml", "values-production.yaml")


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

    def lint(self, name: str, *values: Path) -> None:
        """Raise HelmFailed unless the chart is without fault and warning."""
        self.helm.run("lint", "--strict", "--quiet", str(self.chart(name)), *_files(values))

    def render(
        self,
        name: str,
        *values: Path,
        settings: Mapping[str, str] | None = None,
        release: str = "market-data",
        namespace: str = "market-data",
        options: Sequence[str] = (),
    ) -> list[Object]:
        """The objects of a release, in the order helm would apply them.

        `settings` are `--set` pairs: {"gateway.replicas": "3"}.

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

    def profile(self, file: str) -> Path:
        """One of the umbrella's values files."""
        return self.chart(UMBRELLA) / file


def _files(values: Iterable[Path]) -> list[str]:
    return [part for file in values for part in ("--values", str(file))]
