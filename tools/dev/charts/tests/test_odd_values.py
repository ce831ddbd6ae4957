"""Values that nobody would write in an example, and somebody writes in earnest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tools.dev.charts.kubernetes import validate
from tools.dev.charts.testing import of_kind
from tools.dev.charts.values import chart_schema, read_values
from tools.dev.charts.workspace import CHARTS, SERVICES, UMBRELLA, HelmFailed, Object, Workspace

pytestmark = pytest.mark.charts
# YAML takes each of these for something else than text where it stands without quotes.
ODD = ["1", "007", "on", "1e3", "null"]
every_chart = pytest.mark.parametrize("chart", CHARTS)


def texts(item: object, path: str = "") -> Iterator[tuple[str, object]]:
    """What has to be text in any object: names, labels, annotations, variables, data."""
    if isinstance(item, dict):
        for key, value in item.items():
            where = f"{path}.{key}"
            if key in ("labels", "matchLabels", "annotations", "data", "nodeSelector"):
                yield from ((f"{where}.{name}", text) for name, text in (value or {}).items())
            elif key in ("name", "secretName", "serviceAccountName", "priorityClassName", "value"):
                yield where, value
            yield from texts(value, where)
    elif isinstance(item, list):
        for number, value in enumerate(item):
            yield from texts(value, f"{path}[{number}]")


def written(values: Mapping[str, Any], workspace: Workspace) -> Any:
    # JSON, where every text has its quotes.
    file = workspace.root / "odd-values.json"
    file.write_text(json.dumps(dict(values)))
    return file


@pytest.mark.parametrize("name", ODD)
@every_chart
def test_a_name_that_looks_like_a_number_or_a_truth_stays_text(
    workspace: Workspace, chart: str, name: str
) -> None:
    values: dict[str, Any] = {
        "fullnameOverride": name,
        "nameOverride": name,
        "imagePullSecrets": [name],
        "priorityClassName": name,
        "serviceAccount": {"name": name},
    }
    if chart in SERVICES:
        values |= {"existingSecret": name, "natsCredsSecret": name, "natsTlsSecret": name}
    if chart == "ingestor":
        sets = [{"name": odd, "products": [f"P{odd}-USD"]} for odd in ("1", "007", "on", "1e3")]
        values["productSets"] = sets
    objects = workspace.render(chart, written(values, workspace), release=name)
    assert [found for item in objects for found in texts(item) if type(found[1]) is not str] == []
    assert validate(objects, "1.33").problems == []


def integers(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    """Every value that is a whole number, and the largest or a very large one that is allowed."""
    for name, part in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        if part.get("type") == "integer":
            yield where, part.get("maximum", max(20_000_000, part.get("minimum", 0)))
        yield from integers(part, where)


@every_chart
def test_large_numbers_are_written_out(workspace: Workspace, chart: str) -> None:
    # From a file, where Helm holds every number as a float.
    numbers = dict(integers(chart_schema(workspace, chart)))
    values: dict[str, Any] = {}
    for path, number in numbers.items():
        *parents, name = path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = number
    if chart == "gateway":
        # Those that the guards bind to each other.
        values["drain"] = dict.fromkeys(values["drain"], 1000)
        values["autoscaling"] |= {"enabled": True, "scaleDownStabilizationSeconds": 3600}
    if chart == "snapshotter":
        values["replicas"] = 1
    assert values
    text = workspace.helm.run(
        *("template", "x", str(workspace.chart(chart))),
        *("--values", str(written(values, workspace))),
    )
    assert "e+" not in text
    objects: list[Object] = [item for item in yaml.safe_load_all(text) if item]
    assert validate(objects, "1.33").problems == []


def maps_and_texts(defaults: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, default in defaults.items():
        where = f"{path}.{name}" if path else name
        yield where, default
        if isinstance(default, dict):
            yield from maps_and_texts(default, where)


@pytest.mark.parametrize("chart", [*CHARTS, UMBRELLA])
def test_null_is_refused_by_name_where_the_templates_lean_on_a_default(
    workspace: Workspace, chart: str
) -> None:
    schema = chart_schema(workspace, chart)
    defaults = read_values(workspace.chart(chart) / "values.yaml").defaults
    leant_on = [
        (path, default)
        for path, default in maps_and_texts(defaults)
        if default not in ({}, [], "") and "resources." not in path
    ]
    assert len(leant_on) > 5
    for path, _ in leant_on:
        parent, _, name = path.rpartition(".")
        part = schema
        for step in filter(None, parent.split(".")):
            part = part.get("properties", {}).get(step, {})
        if chart == UMBRELLA and parent == "global.settings":
            continue  # `null` takes a setting away, and the service has its own default
        assert name in part.get("required", []), path


@pytest.mark.parametrize(
    ("chart", "value"),
    [
        ("gateway", "drain"),
        ("gateway", "loadBalancer"),
        ("ingestor", "networkPolicy"),
        ("nats", "jetstream"),
        ("snapshotter", "metrics.serviceMonitor"),
        ("normalizer", "image"),
    ],
)
def test_a_map_that_is_null_is_answered_with_a_sentence(
    workspace: Workspace, chart: str, value: str
) -> None:
    with pytest.raises(HelmFailed, match=f"{value.rpartition('.')[2]} is required") as refused:
        workspace.render(chart, settings={value: "null"})
    assert "nil pointer" not in str(refused.value)


@every_chart
def test_what_is_empty_by_default_may_be_null(workspace: Workspace, chart: str) -> None:
    defaults = read_values(workspace.chart(chart) / "values.yaml").defaults
    empty = [path for path, default in maps_and_texts(defaults) if default in ({}, [], "")]
    assert len(empty) > 10
    objects = workspace.render(chart, settings=dict.fromkeys(empty, "null"))
    assert validate(objects, "1.33").problems == []


@pytest.mark.parametrize(
    ("chart", "name"),
    [
        ("ingestor", "COINBASE_PRODUCTS"),
        ("normalizer", "NORMALIZER_SHARDS"),
        ("gateway", "DRAIN_SECONDS"),
        ("gateway", "ADMIN_PORT"),
        ("nats", "POD_NAME"),
    ],
)
def test_a_variable_of_the_charts_own_is_not_set_twice(
    workspace: Workspace, chart: str, name: str
) -> None:
    with pytest.raises(HelmFailed, match=f"extraEnv: {name} is set by the chart itself"):
        workspace.render(chart, settings={"extraEnv[0].name": name, "extraEnv[0].value": "x"})


def test_a_variable_of_ones_own_is_there_once(workspace: Workspace) -> None:
    twice = {"extraEnv[0].name": "A", "extraEnv[1].name": "A"}
    with pytest.raises(HelmFailed, match="extraEnv: A is there twice"):
        workspace.render("gateway", settings=twice)


@pytest.mark.parametrize("families", [["IPv6"], ["IPv4", "IPv6"]])
def test_a_cluster_without_ipv4_is_served(workspace: Workspace, families: list[str]) -> None:
    file = written({"global": {"ipFamilies": families}}, workspace)
    objects = workspace.render(UMBRELLA, file, settings={"gateway.loadBalancer.profile": "alb"})
    assert validate(objects, "1.33").problems == []
    policy = "SingleStack" if len(families) == 1 else "PreferDualStack"
    for service in of_kind(objects, "Service").values():
        assert service["spec"]["ipFamilies"] == families
        assert service["spec"]["ipFamilyPolicy"] == policy
    # `::` takes IPv4 too where there is any; 0.0.0.0 would take nothing else.
    text = json.dumps(objects)
    assert '"HTTP_HOST": "::"' in text
    assert "0.0.0.0:" not in text
    assert "[::]:4222" in text
    (ingress,) = of_kind(objects, "Ingress").values()
    marks = ingress["metadata"]["annotations"]
    assert marks["alb.ingress.kubernetes.io/ip-address-type"] == "dualstack"


PRODUCTION = {"settings.ENVIRONMENT": "production", "settings.NATS_URLS": "tls://nats:4222"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"loadBalancer.profile": "alb"}, "set loadBalancer.certificateArn"),
        ({"settings.NATS_URLS": "nats://nats:4222"}, "NATS_URLS has nats://nats:4222 without TLS"),
        ({"natsCredsSecret": ""}, "set natsCredsSecret or natsAuthSecret"),
    ],
)
def test_production_is_refused_without_tls_and_credentials(
    workspace: Workspace, change: dict[str, str], sentence: str
) -> None:
    given = {**PRODUCTION, "natsCredsSecret": "creds", "existingSecret": "keys"}
    assert workspace.render("gateway", settings=given)
    with pytest.raises(HelmFailed, match=sentence):
        workspace.render("gateway", settings={**given, **change})
    if sentence != "set natsCredsSecret or natsAuthSecret":
        accepted = {**given, **change, "plaintextAccepted": "true"}
        assert workspace.render("gateway", settings=accepted)


@pytest.mark.parametrize("chart", SERVICES)
def test_admin_is_reached_from_the_namespaces_named_and_the_charts_own_test(
    workspace: Workspace, chart: str
) -> None:
    objects = workspace.render(chart, settings={"networkPolicy.adminNamespaces": "{ops}"})
    (policy,) = of_kind(objects, "NetworkPolicy").values()
    (rule,) = (rule for rule in policy["spec"]["ingress"] if {"port": "admin"} in rule["ports"])
    pods, namespaces = rule["from"]
    assert pods["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == f"{chart}-test"
    (named,) = namespaces["namespaceSelector"]["matchExpressions"]
    assert named["values"] == ["monitoring", "ops"]


def test_certificates_reach_the_services_and_the_server(workspace: Workspace) -> None:
    settings = {"natsTlsSecret": "ca", "natsClientCertificate": "true"}
    objects = workspace.render("ingestor", settings=settings)
    (workload,) = of_kind(objects, "Deployment").values()
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert variables["NATS_TLS_CA_FILE"] == "/etc/nats-tls/ca.crt"
    assert variables["NATS_TLS_CERT_FILE"] == "/etc/nats-tls/tls.crt"
    assert {"name": "nats-tls", "mountPath": "/etc/nats-tls", "readOnly": True} in container[
        "volumeMounts"
    ]
    server = workspace.render("nats", settings={"tls.existingSecret": "own", "tls.verify": "true"})
    assert validate([*objects, *server], "1.33").problems == []
    (config,) = of_kind(server, "ConfigMap").values()
    assert config["data"]["nats.conf"].count('cert_file: "/etc/nats-tls/tls.crt"') == 2
