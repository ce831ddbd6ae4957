"""`k8s/`: the umbrella with its default values as plain manifests, for those without Helm."""

from __future__ import annotations

from collections import defaultdict

import yaml

from tools.dev.charts.workspace import CHARTS, UMBRELLA, Object, Workspace

NAMESPACE = "market-data"
HEADER = (
    "# Rendered from charts/market-data-fanout by `make manifests`; change the charts instead.\n"
)


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
