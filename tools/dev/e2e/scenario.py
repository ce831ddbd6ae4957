"""The steps on the cluster: images, install, load, restarts, result; and whether it passed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.dev.charts.workspace import ROOT, SERVICES, UMBRELLA, Helm, Workspace
from tools.dev.e2e.programs import ProgramFailed, Programs
from tools.dev.images.image import IMAGES, Image


class NoResult(Exception):
    """The load test's output does not end with its JSON line."""


def result_of(output: str) -> dict[str, Any]:
    """The last line of `mdf loadtest` that is a JSON object. Raises NoResult if there is none."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    raise NoResult("the load test printed no result")


def problems(result: Mapping[str, Any], *, succeeded: bool, outlived: bool) -> list[str]:
    """Why the run does not count as passed, one sentence each; empty if it does.

    `result` is what `mdf loadtest` printed; it `succeeded` with status 0, and `outlived` the last
    restart.
    """
    found = []
    if not outlived:
        found.append("the load ended before the restarts did: nothing watched the last of them")
    for name, what in (
        ("missed", "ticks were missed"),
        ("unexplained_breaks", "chains broke without a word"),
        ("clients_without_ticks", "clients never got a tick"),
    ):
        if result[name]:
            found.append(f"{result[name]} {what}")
    clients = result["clients"]
    if result["drains"] < clients:
        found.append(f"only {result['drains']} drains announced to {clients} clients")
    if result["resumed"] < result["drains"]:
        found.append(f"{result['drains']} drains, and only {result['resumed']} resumptions")
    if not succeeded and not found:
        found.append("the load test ended with a failure of its own")
    return found


KIND = ROOT / "deploy" / "kind"
CLUSTER = "market-data-e2e"
NAMESPACE = "market-data"
RELEASE = "market-data"
# What clients are connected to first: the restarts behind it must not be seen at all.
RESTARTS = ("gateway", "normalizer", "snapshotter", "ingestor")
_POLL_S = 1.0


class TooLong(Exception):
    """Something did not come about in time; the message says what."""


@dataclass(frozen=True)
class Load:
    """What is put on the gateways while they go. `seconds` have to cover all restarts."""

    clients: int = 200
    seconds: int = 300
    products: str = "BTC-USD,ETH-USD,SOL-USD"

    @property
    def arguments(self) -> list[str]:
        return [
            f"--url=ws://{RELEASE}-gateway:8080/ws",
            f"--products={self.products}",
            f"--clients={self.clients}",
            f"--duration={self.seconds}",
        ]


class Scenario:
    """Each method is a step and returns once it is done; `say` is told what begins."""

    def __init__(self, programs: Programs, load: Load, *, say: Callable[[str], None]) -> None:
        self._programs = programs
        self._load = load
        self._say = say

    def run(self) -> dict[str, Any]:
        """All steps. The load test's result, with `problems` and `restarted` added."""
        self.build_images()
        self.start_cluster()
        self.install()
        self.start_load()
        restarted = {name: round(self.restart(name), 1) for name in RESTARTS}
        outlived = self._job()["active"] > 0
        succeeded = self.await_load()
        result = result_of(self._kubectl("logs", "job/load"))
        return {
            **result,
            "restarted": restarted,
            "problems": problems(result, succeeded=succeeded, outlived=outlived),
        }

    def build_images(self) -> None:
        for image in IMAGES:
            self._say(f"image {image.name}")
            self._programs.run(
                *("docker", "build", "--file", str(image.dockerfile)),
                *("--tag", tag(image), str(ROOT)),
                patience=900,
            )

    def start_cluster(self) -> None:
        self._say(f"cluster {CLUSTER}")
        self._programs.run(
            *("kind", "create", "cluster", "--name", CLUSTER),
            *("--config", str(KIND / "cluster.yaml"), "--wait", "180s"),
            *("--kubeconfig", str(self._programs.kubeconfig)),
            patience=600,
        )
        self._programs.run(
            "kind", "load", "docker-image", "--name", CLUSTER, *map(tag, IMAGES), patience=600
        )

    def install(self) -> None:
        self._say("charts")
        self._programs.run("kubectl", "apply", "--filename", str(ROOT / "k8s" / "namespace.yaml"))
        self._kubectl("apply", "--filename", str(KIND / "stand-ins.yaml"))
        for name in ("exchange", "aws"):
            self._kubectl("rollout", "status", f"deployment/{name}", "--timeout=180s")
        with Helm() as helm:
            chart = Workspace(helm)
            chart.build()
        self._programs.run(
            *("helm", "upgrade", "--install", RELEASE, str(chart.chart(UMBRELLA))),
            *("--namespace", NAMESPACE, "--values", str(KIND / "values.yaml")),
            *("--wait", "--timeout", "8m"),
            patience=600,
        )
        self._programs.run(
            "helm", "test", RELEASE, "--namespace", NAMESPACE, "--logs", "--timeout", "3m"
        )

    def start_load(self) -> None:
        """Start the subscribers; returns once all of them are connected."""
        self._say(f"load of {self._load.clients} clients")
        job = yaml.safe_load((KIND / "load.yaml").read_text())
        job["spec"]["template"]["spec"]["containers"][0]["args"] = self._load.arguments
        self._kubectl("apply", "--filename", "-", given=yaml.safe_dump(job))
        everyone = f"{self._load.clients}/{self._load.clients} connected"
        self._until(lambda: everyone in self._load_output(), 120, "all clients connected")

    def restart(self, service: str) -> float:
        """Replace every pod of a service; seconds until the last old one is gone."""
        self._say(f"restart of {service}")
        began = time.monotonic()
        old = self._of("pods", service)
        workloads = self._of("deployments,statefulsets", service)
        self._kubectl("rollout", "restart", *workloads)
        for workload in workloads:
            self._kubectl("rollout", "status", workload, "--timeout=240s")
        # A pod that still drains does not count for `rollout status`, and its clients do for us.
        self._until(lambda: not set(old) & set(self._of("pods", service)), 240, "end of old pods")
        return time.monotonic() - began

    def await_load(self) -> bool:
        """Whether the load test ended with status 0."""
        self._say("load runs to its end")
        patience = self._load.seconds + 180
        self._until(lambda: self._job()["active"] == 0, patience, "the load test's end")
        return self._job()["succeeded"] > 0

    def collect(self, folder: Path) -> None:
        """Write what may tell why a run failed; what cannot be had is left out."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, arguments in {
            "objects": ("get", "all,networkpolicies,events", "--output", "wide"),
            "pods": ("describe", "pods"),
            "load": ("logs", "job/load", "--tail=-1"),
            **{
                service: ("logs", "--selector", f"app.kubernetes.io/name={service}", "--tail=-1")
                for service in (*SERVICES, "nats")
            },
        }.items():
            try:
                (folder / f"{name}.txt").write_text(self._kubectl(*arguments))
            except ProgramFailed as error:
                (folder / f"{name}.txt").write_text(str(error))

    def delete_cluster(self) -> None:
        self._programs.run("kind", "delete", "cluster", "--name", CLUSTER)

    def _kubectl(self, *arguments: str, given: str | None = None) -> str:
        return self._programs.run("kubectl", "--namespace", NAMESPACE, *arguments, given=given)

    def _of(self, kinds: str, service: str) -> list[str]:
        """The objects of a service, such as `pod/market-data-gateway-0`."""
        label = f"app.kubernetes.io/name={service}"
        return self._kubectl("get", kinds, "--selector", label, "--output", "name").split()

    def _load_output(self) -> str:
        try:
            return self._kubectl("logs", "job/load", "--tail=1")
        except ProgramFailed:
            # Its pod has not started yet.
            return ""

    def _job(self) -> dict[str, int]:
        status = json.loads(self._kubectl("get", "job/load", "--output", "json"))["status"]
        counts = {name: int(status.get(name, 0)) for name in ("active", "succeeded", "failed")}
        if not any(counts.values()):
            counts["active"] = 1  # The controller has not looked at it yet.
        return counts

    def _until(self, holds: Callable[[], bool], patience: float, what: str) -> None:
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline:
                raise TooLong(f"no {what} within {patience:.0f} s")
            time.sleep(_POLL_S)


def tag(image: Image) -> str:
    """What `deploy/kind` calls it."""
    return f"market-data-fanout/{image.name}:e2e"
