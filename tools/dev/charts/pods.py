"""Pods inside rendered objects, and the Pod Security Standard "restricted" as a function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tools.dev.charts.workspace import Object

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
