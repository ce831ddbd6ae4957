"""Every command of the operations guide is real, as far as that can be seen without a cluster.

Read are the shell blocks of docs/operations.md and docs/operations/: targets, `mdf` options, files,
names of objects and calls of AWS have to exist, and the helm commands have to render.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from string import Template
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore import xform_name

from services.common.stores.layout import RAW, TICKS
from tools.cli import main as mdf
from tools.dev.charts.helm import Helm
from tools.dev.charts.kubernetes import validate
from tools.dev.charts.pods import pods, violations
from tools.dev.charts.workspace import ROOT, UMBRELLA, Object, Workspace
from tools.doctor.checks import SETTINGS, check_settings

FOLDER = ROOT / "docs"
DOCUMENTS = [FOLDER / "operations.md", *sorted((FOLDER / "operations").glob("*.md"))]
# What the guide lets the reader set, and stands for here.
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "AWS_ACCOUNT_ID": "111122223333",
    "CLUSTER": "market",
    "NAMESPACE": "market-data",
    "RELEASE": "market-data",
    "VERSION": "0.1.0",
    "S3_BUCKET": "market-data-111122223333",
    "DDB_TABLE": "market-latest",
    "REGISTRY": "111122223333.dkr.ecr.us-east-1.amazonaws.com",
    "HOST": "ticks.example.com",
    "CERTIFICATE_ARN": "arn:aws:acm:us-east-1:111122223333:certificate/yours",
    "SERVICE_ACCOUNT": "market-data-gateway",
    "OIDC_PROVIDER": "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE",
    "JOB": "doctor",
    "ARGS": '["doctor"]',
}
# Programs that are not looked into: nothing here knows their options.
OTHERS = {"cosign", "curl", "docker", "eksctl", "envsubst", "git", "nats", "openssl", "sed"}
_OURS = re.compile(r"(?:file://)?((?:charts|deploy|docs|helm|k8s|services|tests|tools)/[\w./-]+)")
_OPTIONS_OF_THE_CLI = {"query", "output", "region", "cli-input-json"}


@dataclass(frozen=True)
class Command:
    """One simple command, its variables filled in."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"[:110]

    def values_of(self, option: str) -> list[str]:
        return [
            after for word, after in zip(self.words, self.words[1:], strict=False) if word == option
        ]


def simple_commands(block: str) -> Iterator[tuple[str, ...]]:
    """The words of each simple command of a block; those of a `for` loop once for each value."""
    text = re.sub(r"(^|\s)#.*$", "", block.replace("\\\n", " "), flags=re.M)
    for inner in re.findall(r"\$\((.*?)\)", text):
        yield from simple_commands(inner)
    text = re.sub(r"\$\(.*?\)", "substituted", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()\n")
    lexer.commenters = ""
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    loops: list[tuple[str, list[str]]] = []
    words: list[str] = []

    def ended() -> Iterator[tuple[str, ...]]:
        while words and words[0] in ("do", "export"):
            words.pop(0)
        while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
            words.pop(0)
        if not words:
            return
        if words[0] == "for":
            loops.append((words[1], words[3:]))
        elif words[0] == "done":
            loops.pop()
        else:
            for values in product(*(values for _, values in loops)):
                names = dict(zip((name for name, _ in loops), values, strict=True))
                yield tuple(Template(word).safe_substitute(VARIABLES | names) for word in words)
        words.clear()

    for token in lexer:
        if set(token) <= set(";&|()\n"):
            yield from ended()
        else:
            words.append(token)
    yield from ended()


def commands() -> list[Command]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```$", text, re.M | re.S):
            plain = re.sub(rf"^{indent}", "", block, flags=re.M)
            found += [Command(document.name, words) for words in simple_commands(plain)]
        # Commands inside a sentence.
        for inline in re.findall(r"`((?:mdf|make|kubectl|python -m|aws|helm) [^`]+)`", text):
            found += [Command(document.name, words) for words in simple_commands(inline)]
    return found


COMMANDS = commands()


def of(program: str) -> list[Command]:
    return [command for command in COMMANDS if command.words[0] == program]


every = pytest.mark.parametrize


def test_the_guide_has_commands_and_they_are_understood() -> None:
    programs = {command.words[0] for command in COMMANDS}
    assert programs - OTHERS == {"aws", "helm", "kubectl", "make", "mdf", "python"}
    assert len(COMMANDS) > 80
    assert {str(document.parent.name) for document in DOCUMENTS} == {"docs", "operations"}


def test_files_that_commands_name_exist() -> None:
    missing = [
        f"{command}: {found[1]}"
        for command in COMMANDS
        for word in command.words
        if (found := _OURS.fullmatch(word)) and not (ROOT / found[1]).exists()
    ]
    assert missing == []


def test_variables_in_commands_are_set_by_the_guide() -> None:
    text = (FOLDER / "operations.md").read_text()
    exported = set(re.findall(r"(?:export |[\s;])([A-Z][A-Z0-9_]+)=", text))
    used = {
        name
        for command in COMMANDS
        for word in command.words
        for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", word)
    }
    # What only the reader knows.
    assert used - exported <= {"NODE", "ADMIN_API_KEY"}
    assert set(VARIABLES) <= exported


@every("command", of("make"), ids=str)
def test_a_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M)
    wanted = [word for word in command.words[1:] if "=" not in word]
    assert wanted
    assert set(wanted) <= set(targets)


@every("command", of("python"), ids=str)
def test_a_module_exists(command: Command) -> None:
    assert command.words[1] == "-m"
    assert find_spec(command.words[2]) is not None


@every("command", of("mdf"), ids=str)
def test_an_mdf_command_takes_these_options(command: Command) -> None:
    name, *words = command.words[1:]
    tool = mdf.get_command(click.Context(mdf), name)
    assert tool is not None
    if words:
        # Parses them all, and ends at the first that is wrong; nothing is run.
        tool.make_context(name, list(words))


def test_the_jobs_arguments_are_mdf_commands() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    found = re.findall(r"ARGS='(\[.*?\])'", text)
    assert len(found) == 2
    for arguments in found:
        name, *words = json.loads(arguments)
        tool = mdf.get_command(click.Context(mdf), name)
        assert tool is not None
        tool.make_context(name, words)


# ---------------------------------------------------------------------- AWS


@cache
def operations(service: str) -> dict[str, Any]:
    model = botocore.session.get_session().get_service_model({"s3api": "s3"}.get(service, service))
    return {xform_name(name, "-"): model.operation_model(name) for name in model.operation_names}


@every("command", of("aws"), ids=str)
def test_a_call_of_aws_and_its_options_exist(command: Command) -> None:
    service, operation, *words = command.words[1:]
    if (service, operation) == ("ecr", "get-login-password"):
        return
    members = operations(service)[operation].input_shape.members
    known = {xform_name(name, "-") for name in members} | _OPTIONS_OF_THE_CLI
    options = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert options - known == set()


def test_what_expires_is_never_the_index_or_a_checkpoint() -> None:
    lifecycle = json.loads((ROOT / "deploy/s3/lifecycle.json").read_text())
    shape = operations("s3api")["put-bucket-lifecycle-configuration"].input_shape
    assert lifecycle.keys() <= shape.members["LifecycleConfiguration"].members.keys()
    expires = {
        rule["Filter"]["Prefix"]
        for rule in lifecycle["Rules"]
        if rule.get("Expiration", {}).get("Days")
    }
    assert expires == {f"{TICKS}/", f"{RAW}/"}
    assert any("AbortIncompleteMultipartUpload" in rule for rule in lifecycle["Rules"])


# ---------------------------------------------------------------------- charts


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Helm() as helm:
        built = Workspace.copy(helm, tmp_path_factory.mktemp("charts"))
        built.build()
        (built.root / "values.yaml").write_text(filled("deploy/eks/values.yaml"))
        yield built


def filled(path: str) -> str:
    """A file after `envsubst`; a variable that the guide does not set is an error."""
    return Template((ROOT / path).read_text()).substitute(VARIABLES)


@pytest.fixture(scope="module")
def installed(workspace: Workspace) -> list[Object]:
    """What the guide's install command makes."""
    (command,) = [
        each
        for each in of("helm")
        if "--install" in each.words and f"charts/{UMBRELLA}" in each.words
    ]
    return rendered(workspace, command)


def rendered(workspace: Workspace, command: Command) -> list[Object]:
    files = [workspace.root / name for name in command.values_of("--values")]
    settings = dict(pair.split("=", 1) for pair in command.values_of("--set"))
    return workspace.render(UMBRELLA, *files, settings=settings)


def test_helm_commands_with_our_charts_render(workspace: Workspace) -> None:
    ours = [command for command in of("helm") if f"charts/{UMBRELLA}" in command.words]
    assert {command.words[1] for command in ours} == {"upgrade", "dependency"}
    for command in ours:
        if command.words[1] == "upgrade":
            assert rendered(workspace, command)
    # What sentences add to it.
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    production = workspace.profile("production")
    for file in set(re.findall(r"`--values (charts/\S+)`", text)):
        assert workspace.render(UMBRELLA, *production, workspace.root / file)
    for pair in set(re.findall(r"`--set (\S+)=\.\.\.`", text)):
        assert workspace.render(
            UMBRELLA,
            *production,
            settings={pair: f"arn:aws:iam::{VARIABLES['AWS_ACCOUNT_ID']}:role/x"},
        )


def test_values_that_the_pages_name_exist(workspace: Workspace) -> None:
    charts = {
        name: yaml.safe_load((workspace.chart(name) / "values.yaml").read_text())
        for name in (UMBRELLA, "gateway", "ingestor", "normalizer", "snapshotter", "nats")
    }
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    names = re.findall(
        r"`((?:global|gateway|ingestor|normalizer|snapshotter|nats|drain|rollout|autoscaling|loadBalancer|networkPolicy|metrics|serviceAccount)\.[a-zA-Z.]+)`",
        text,
    )
    assert len(names) > 20
    for name in set(names) - {"nats.creds"}:
        first, *rest = name.split(".")
        candidates = [charts[first]] if first in charts else [charts[UMBRELLA], *charts.values()]
        path = rest if first in charts else [first, *rest]
        if first in ("nats", "gateway") and path == ["enabled"]:
            candidates, path = [charts[UMBRELLA]], [first, "enabled"]
        assert any(held(values, path) for values in candidates), name


def held(values: Any, path: list[str]) -> bool:
    for part in path:
        if part.isupper():
            return part in settings()
        if part and (not isinstance(values, dict) or part not in values):
            return False
        values = values[part] if part else values
    return True


@cache
def settings() -> set[str]:
    """The variables of all services."""
    files = (ROOT / "helm").glob("*/settings.txt")
    return {name for file in files for name in file.read_text().split()}


def test_variables_that_the_pages_name_exist() -> None:
    # Of tools and of the release, not of a service.
    others = {"DOCKER_BUILDKIT", "AWS_ROLE_ARN", "ADMIN_API_KEY"} | set(VARIABLES)
    for document in DOCUMENTS:
        names = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", document.read_text()))
        unknown = names - settings() - others
        assert unknown <= {"GATEWAY_PORT", "GRAFANA_PORT", "PROMETHEUS_PORT", "JAEGER_PORT"}


@every("command", of("kubectl"), ids=str)
def test_objects_that_kubectl_names_are_made_by_the_guide(
    command: Command, installed: list[Object]
) -> None:
    made = {(item["kind"].lower(), item["metadata"]["name"]) for item in installed}
    made |= {("svc", name) for kind, name in made if kind == "service"}
    made |= {("job", "mdf-doctor"), ("job", "mdf-replay")}
    for word in command.words:
        if found := re.fullmatch(r"(deployment|statefulset|svc|job)/([\w-]+)", word):
            assert (found[1], found[2]) in made
    for selector in command.values_of("-l"):
        names = set(re.findall(r"[\w-]+", selector.partition("name")[2])) - {"in"}
        workloads = {
            item["metadata"]["labels"]["app.kubernetes.io/name"]
            for item in installed
            if item["kind"] == "Deployment"
        }
        assert names <= workloads
    if command.words[3:6] == ("create", "secret", "generic"):
        secrets = {
            source["secretRef"]["name"]
            for pod in pods(installed)
            for container in pod.containers
            for source in container.get("envFrom", [])
            if "secretRef" in source
        }
        job = yaml.safe_load(filled("deploy/kubernetes/mdf.yaml"))
        secrets |= {
            volume["secret"]["secretName"]
            for pod in [*pods(installed), *pods([job])]
            for volume in pod.spec.get("volumes", [])
            if "secret" in volume
        }
        assert command.words[6] in secrets


def test_pods_of_one_replica_leave_a_dead_node_soon(installed: list[Object]) -> None:
    for item in installed:
        if item["kind"] == "Deployment" and not item["metadata"]["name"].endswith("gateway"):
            tolerations = item["spec"]["template"]["spec"]["tolerations"]
            assert {each["tolerationSeconds"] for each in tolerations} == {20}


def test_the_job_for_mdf_runs_under_the_namespaces_rules(installed: list[Object]) -> None:
    job = yaml.safe_load(filled("deploy/kubernetes/mdf.yaml"))
    verdict = validate([job], "1.33")
    assert (verdict.problems, verdict.checked) == ([], 1)
    (pod,) = pods([job])
    assert violations(pod) == []
    (container,) = pod.containers
    assert container["args"] == ["doctor"]
    names = {item["metadata"]["name"] for item in installed if item["kind"] == "ConfigMap"}
    assert container["envFrom"][0]["configMapRef"]["name"] in names
    created = [command.words[-1] for command in of("kubectl") if "serviceaccount" in command.words]
    assert pod.spec["serviceAccountName"] in created


def test_the_jobs_environment_is_enough_for_mdf(
    installed: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mdf doctor` reads the settings of every service, from one ConfigMap and one Secret."""
    (config,) = [
        item
        for item in installed
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "market-data-snapshotter"
    ]
    for name, value in {**config["data"], "AUTH_API_KEYS": "key-one"}.items():
        monkeypatch.setenv(name, value)
    for service in SETTINGS:
        finding, loaded = check_settings(service)
        assert finding.level == "ok", finding
        assert loaded is not None
    assert config["data"]["SNAPSHOT_PERIOD_MS"] == "1000"
    assert {config["data"]["DDB_TABLE"], config["data"]["S3_BUCKET"]} <= set(VARIABLES.values())


def test_files_for_the_cluster_are_whole() -> None:
    cluster = yaml.safe_load(filled("deploy/eks/cluster.yaml"))
    zones = {zone for group in cluster["managedNodeGroups"] for zone in group["availabilityZones"]}
    assert len(zones) == 3
    assert {"vpc-cni", "eks-pod-identity-agent", "aws-ebs-csi-driver", "metrics-server"} <= {
        addon["name"] for addon in cluster["addons"]
    }
    gateway = yaml.safe_load(filled("deploy/eks/values.yaml"))["gateway"]
    assert gateway["networkPolicy"]["clientCidrs"] == [cluster["vpc"]["cidr"]]
    nats = yaml.safe_load(filled("deploy/eks/nats-values.yaml"))
    assert nats["config"]["merge"]["max_payload"] == 8 * 1024 * 1024
    storage = yaml.safe_load(filled("deploy/eks/gp3.yaml"))
    assert validate([storage], "1.33").problems == []
    assert (
        nats["config"]["jetstream"]["fileStore"]["pvc"]["storageClassName"]
        == storage["metadata"]["name"]
    )
