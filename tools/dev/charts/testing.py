"""Rendered pods outside a cluster: their environment as the kubelet makes it, their programs."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from tools.dev.charts.kubernetes import Pod
from tools.dev.charts.workspace import Object

# What the Secrets that the profiles name have to hold.
SECRETS = {
    "market-data-gateway": {"AUTH_API_KEYS": "a-key-of-good-length"},
    **{
        f"market-data-nats-{user}": {"NATS_USER": user, "NATS_PASSWORD": f"1e5 #{user}"}
        for user in ("ingestor", "normalizer", "snapshotter", "gateway", "operator")
    },
}


def of_kind(objects: Iterable[Object], kind: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def environment(objects: list[Object], pod: Pod) -> dict[str, str]:
    """The variables of a pod's first container, its Secrets taken from `SECRETS`.

    Fields of the pod (`fieldRef`) are left out.
    """
    container = pod.containers[0]
    maps = {
        item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"
    }
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]
        else:
            found |= SECRETS.get(source["secretRef"]["name"], {})
    for item in container.get("env", []):
        value = _value(item, found)
        if value is not None:
            found[item["name"]] = value
    return found


def _value(item: Mapping[str, Any], before: Mapping[str, str]) -> str | None:
    if "value" in item:
        # `$(NAME)` is what was there before.
        return re.sub(r"\$\((\w+)\)", lambda match: before[match[1]], item["value"])
    reference = item["valueFrom"].get("secretKeyRef")
    return None if reference is None else SECRETS[reference["name"]][reference["key"]]


def hook_containers(objects: list[Object], chart: str) -> dict[str, Object]:
    """The containers of a chart's `helm test` pods, by name."""
    return {
        container["name"]: container
        for item in objects
        if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
        and item["metadata"]["labels"]["app.kubernetes.io/name"] == f"{chart}-test"
        for container in item["spec"]["containers"]
    }


async def outcome(container: Object, **variables: str) -> tuple[int, str]:
    """Exit status and output of a container's program, with these addresses for its own."""
    if variables.keys() != {item["name"] for item in container["env"]}:
        raise ValueError(f"{container['name']} takes other variables: {container['env']}")
    program, *arguments = container["command"]
    process = await asyncio.create_subprocess_exec(
        sys.executable if program == "python" else program,
        *arguments,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()
