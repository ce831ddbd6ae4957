"""The NATS chart against the real server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools.charts.workspace import Workspace
from tools.embedded.nats import MAX_PAYLOAD, nats_binary

pytestmark = pytest.mark.charts


@pytest.mark.parametrize("replicas", ["1", "3"])
def test_the_server_accepts_the_rendered_configuration(
    workspace: Workspace, tmp_path: Path, replicas: str
) -> None:
    objects = workspace.render("nats", settings={"replicas": replicas})
    (config,) = (item["data"]["nats.conf"] for item in objects if item["kind"] == "ConfigMap")
    assert f"max_payload: {MAX_PAYLOAD}\n" in config
    file = tmp_path / "nats.conf"
    file.write_text(config)
    done = subprocess.run(
        [nats_binary(), "-t", "-c", str(file)],
        env={**os.environ, "POD_NAME": "nats-0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_server_is_a_route_of_the_cluster_by_the_name_its_service_gives_it(
    workspace: Workspace,
) -> None:
    objects = workspace.render("nats", settings={"replicas": "3"}, release="md")
    (config,) = (item["data"]["nats.conf"] for item in objects if item["kind"] == "ConfigMap")
    (stateful,) = (item for item in objects if item["kind"] == "StatefulSet")
    name, service = stateful["metadata"]["name"], stateful["spec"]["serviceName"]
    for ordinal in range(3):
        assert f'"nats://{name}-{ordinal}.{service}:6222"' in config
    assert service in {i["metadata"]["name"] for i in objects if i["kind"] == "Service"}
