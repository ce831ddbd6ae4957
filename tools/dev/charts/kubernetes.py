"""Rendered objects judged: by the API's own schemas, and by the Pod Security Standard "restricted".

The schemas are those of the `kubernetes-validate` package. What it does for one object is done here
with its schema files, so that a schema is read and compiled once and not once per object. Custom
resources are checked against ours (`custom.yaml`); a kind that neither knows is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no type information
import yaml
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from tools.dev.charts.workspace import Object

_DEFINITIONS = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s."
_METADATA = {"$ref": f"{_DEFINITIONS}apimachinery.pkg.apis.meta.v1.ObjectMeta"}


@dataclass(slots=True)
class Verdict:
    """`problems` are sentences; `unknown` are kinds without a schema."""

    checked: int = 0
    problems: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def validate(objects: Iterable[Object], version: str) -> Verdict:
    """Check objects strictly (no unknown field) for a Kubernetes version such as `1.34`."""
    verdict = Verdict()
    for item in objects:
        validator = _validator(version, item["apiVersion"], item["kind"])
        if validator is None:
            verdict.unknown.add(item["kind"])
            continue
        verdict.checked += 1
        for error in validator.iter_errors(item):
            where = ".".join(str(part) for part in error.path)
            verdict.problems.append(
                f"{item['kind']}/{item['metadata']['name']}: {where}: {error.message}"
            )
    return verdict


@cache
def _folder(version: str) -> str:
    full = next(known for known in all_versions() if known.startswith(f"{version}."))
    return f"kubernetes-json-schema/v{full}-local-strict"


@cache
def _definitions(version: str) -> Registry[Any]:
    contents = schema_contents(f"{_folder(version)}/_definitions.json", version)
    return Resource.from_contents(contents) @ Registry()


@cache
def _custom() -> dict[str, Any]:
    text = Path(__file__).with_name("custom.yaml").read_text()
    specs: dict[str, Any] = _closed(yaml.safe_load(text)["specs"])
    return specs


def _closed(schema: Any) -> Any:
    """The same, with no other properties in an object than those that are named."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"type": "object", "additionalProperties": False} if "properties" in schema else {}
    return closed | {name: _closed(each) for name, each in schema.items()}


@cache
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator | None:
    if (spec := _custom().get(f"{api_version} {kind}")) is not None:
        whole = {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": _METADATA,
            "spec": spec,
        }
        custom = _closed({"required": list(whole), "properties": whole})
        return jsonschema.Draft202012Validator(custom, registry=_definitions(version))
    # The files are named after kind, group without its domain, and version: ingress-networking-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = schema_contents(f"{_folder(version)}/{kind.lower()}-{group}.json", version)
    except FileNotFoundError:
        return None
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


@dataclass(frozen=True, slots=True)
class Pod:
    """`owner` is kind/name of what it came from; `labels` are the pod's own."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: Iterable[Object]) -> Iterator[Pod]:
    """Every pod that the objects would make, one for each workload."""
    for item in objects:
        owner = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            yield Pod(owner, item["metadata"].get("labels", {}), item["spec"])
        elif "template" in item.get("spec", {}):
            template = item["spec"]["template"]
            yield Pod(owner, template["metadata"]["labels"], template["spec"])


def violations(pod: Pod) -> list[str]:
    """What the "restricted" profile would refuse, and our own rule of a read-only root."""
    found = [f"{name} is set" for name in _HOST if pod.spec.get(name)]
    security = pod.spec.get("securityContext", {})
    found += [
        f"volume {volume['name']} is of a forbidden type"
        for volume in pod.spec.get("volumes", [])
        if not (volume.keys() - {"name"}) <= _VOLUMES
    ]
    for container in pod.containers:
        own = {**security, **container.get("securityContext", {})}
        rules = {
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") != 0,
            "seccompProfile": own.get("seccompProfile", {}).get("type")
            in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "capabilities.drop": "ALL" in own.get("capabilities", {}).get("drop", []),
            "capabilities.add": set(own.get("capabilities", {}).get("add", []))
            <= {"NET_BIND_SERVICE"},
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
        }
        found += [f"{container['name']}: {rule}" for rule, holds in rules.items() if not holds]
    return found
