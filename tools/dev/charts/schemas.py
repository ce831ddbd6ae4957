"""`values.schema.json` of every chart, from its values.yaml and the services' own settings.

The defaults give the types, the comments the descriptions, `RULES` what a default cannot say. The
names under `settings` are those of the service's settings class, so a misspelt variable is refused
at `helm install`; secrets are not among them, since a ConfigMap is no place for them.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from pydantic import SecretStr

from services.common.settings import CommonSettings
from tools.dev.charts.values import Values, read_values
from tools.dev.charts.workspace import CHARTS, SERVICES, UMBRELLA, Workspace

type Schema = dict[str, Any]

_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_NAMES = {"type": "array", "items": {"type": "string"}}
_CIDRS = {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]+$"}}
_FAMILIES = {
    "type": "array",
    "items": {"enum": ["IPv4", "IPv6"]},
    "maxItems": 2,
    "uniqueItems": True,
}
_OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
# As Prometheus and Argo Rollouts write it.
_DURATION = {"type": "string", "pattern": "^[0-9]+(s|m|h)$"}
_DIGEST = {"type": "string", "pattern": "^$|^sha256:[0-9a-f]{64}$"}
_WHEN = {"enum": ["ScheduleAnyway", "DoNotSchedule"]}
# A whole number, or a percentage of the pods; with none, nothing could ever move.
_SHARE = {"type": ["integer", "string"], "minimum": 1, "pattern": "^[1-9][0-9]*%?$"}

RULES: dict[str, Schema] = {
    "image.digest": _DIGEST,
    "image.pullPolicy": {"enum": ["IfNotPresent", "Always", "Never"]},
    "image.repository": {"type": "string", "minLength": 1},
    "imagePullSecrets": _NAMES,
    "serviceAccount.roleArn": {"type": "string", "pattern": "^$|^arn:aws[a-z-]*:iam::[0-9]{12}:"},
    "topologySpread.whenUnsatisfiable": _WHEN,
    "networkPolicy.monitoringNamespaces": _NAMES,
    "networkPolicy.egressPorts": {"type": "array", "items": _PORT},
    "networkPolicy.clientCidrs": _CIDRS,
    "loadBalancer.sourceCidrs": _CIDRS,
    "networkPolicy.healthCheckCidrs": _CIDRS,
    "networkPolicy.adminNamespaces": _NAMES,
    "ipFamilies": _FAMILIES,
    "global.ipFamilies": _FAMILIES,
    "global.imageDigests": {
        "type": "object",
        "additionalProperties": False,
        "properties": dict.fromkeys((*CHARTS, "nats-exporter"), _DIGEST),
    },
    "startupSeconds": {"type": "integer", "minimum": 30},
    "readinessFailureThreshold": {"type": "integer", "minimum": 1},
    "replicas": {"type": "integer", "minimum": 1},
    "pdb.maxUnavailable": _SHARE,
    "rollout.maxSurge": _SHARE,
    "rollout.minReadySeconds": {"type": "integer", "minimum": 0},
    "productSets": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "products"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$"},
                "products": {**_NAMES, "minItems": 1, "uniqueItems": True},
            },
        },
    },
    "shardRanges": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "pattern": "^(all|[0-9]+(-[0-9]+)?)$"},
    },
    # Load balancers need some 10 s to learn that a target is going; see docs/operations.md.
    "drain.preStopSeconds": {"type": "integer", "minimum": 20},
    "drain.preStopMode": {"enum": ["sleep", "exec"]},
    "drain.drainSeconds": {"type": "integer", "minimum": 1},
    "drain.marginSeconds": {"type": "integer", "minimum": 5},
    "loadBalancer.profile": {"enum": ["none", "alb", "nlb"]},
    "loadBalancer.scheme": {"enum": ["internal", "internet-facing"]},
    "loadBalancer.deregistrationDelaySeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
    "loadBalancer.idleTimeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 4000},
    "autoscaling.kind": {"enum": ["hpa", "keda"]},
    "autoscaling.keda.pollingSeconds": {"type": "integer", "minimum": 5},
    "autoscaling.keda.fallbackAfter": {"type": "integer", "minimum": 1},
    # Kubernetes takes no longer window.
    "autoscaling.scaleDownStabilizationSeconds": {"type": "integer", "maximum": 3600},
    "autoscaling.targetConnections": {"type": "integer", "minimum": 0},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.targetCPU": {"type": "integer", "minimum": 1, "maximum": 100},
    "canary.steps": {**_OBJECTS, "minItems": 2},
    **{f"canary.analysis.{name}": _DURATION for name in ("initialDelay", "interval", "window")},
    "canary.analysis.failureLimit": {"type": "integer", "minimum": 0},
    "canary.analysis.maxAbnormalCloseRatio": {"type": "number", "minimum": 0, "maximum": 1},
    "canary.analysis.maxGaps": {"type": "number", "minimum": 0},
    "canary.analysis.maxP99Seconds": {"type": "number", "exclusiveMinimum": 0},
    "metrics.prometheusAddress": {"type": "string", "pattern": "^https?://[^/]+"},
    "metrics.serviceMonitor.podTargetLabels": _NAMES,
    "metrics.exporter.image.digest": _DIGEST,
    "metrics.exporter.resources": {"type": "object"},
    "networkPolicy.extraEgress": _OBJECTS,
    **dict.fromkeys(("extraEnv", "extraEnvFrom", "extraVolumes", "extraVolumeMounts"), _OBJECTS),
    "extraManifests": {"type": "array", "items": {"type": ["object", "string"]}},
    "maxPayload": {"type": "integer", "minimum": 8388608, "maximum": 67108864},
    # nats-server refuses a shorter lame duck.
    "lameDuckSeconds": {"type": "integer", "minimum": 30},
    "jetstream.syncInterval": {"type": "string", "pattern": "^(always|[0-9]+(ms|s|m))$"},
    "jetstream.maxFileStore": {"type": "string", "pattern": "^[1-9][0-9]*(MB|GB|TB)$"},
}
# Settings that follow from other values, or from the shape of the pod.
OWNED = {
    *("ADMIN_PORT", "HTTP_HOST", "HTTP_PORT", "NATS_CREDS_FILE"),
    *("NATS_TLS_CA_FILE", "NATS_TLS_CERT_FILE", "NATS_TLS_KEY_FILE"),
    *("COINBASE_PRODUCTS", "NORMALIZER_SHARDS", "SNAPSHOTTER_SHARDS"),
    *("DRAIN_SECONDS", "DRAIN_TIMEOUT_MS", "STOP_GRACE_S"),
}
# Of one chart only.
OWN_RULES: dict[str, dict[str, Schema]] = {
    "nats": {"replicas": {"enum": [1, 3, 5]}},
    # The normalizer itself takes up to 10 s.
    "normalizer": {"drain.drainSeconds": {"type": "integer", "minimum": 10}},
}


def settings_of(service: str) -> type[CommonSettings]:
    """The settings class of a service."""
    module = import_module(f"services.{service}.settings")
    return next(
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, CommonSettings)
        and item.__module__ == module.__name__
    )


def settings_files(workspace: Workspace) -> dict[str, str]:
    """`settings.txt` of each service's chart: the variables that the service reads, one a line."""
    return {
        str((workspace.chart(name) / "settings.txt").relative_to(workspace.root)): "".join(
            f"{field.upper()}\n" for field in sorted(settings_of(name).model_fields)
        )
        for name in SERVICES
    }


def settings_schema(*services: str) -> Schema:
    """What may stand under `settings`: every setting that is no secret and not the chart's own."""
    properties = {
        name.upper(): {
            "description": field.description or "",
            "type": ["string", "number", "boolean", "null"],
        }
        for service in services
        for name, field in settings_of(service).model_fields.items()
        if SecretStr.__name__ not in str(field.annotation) and name.upper() not in OWNED
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


def chart_schema(workspace: Workspace, name: str) -> Schema:
    """The schema of one chart's values."""
    values = read_values(workspace.chart(name) / "values.yaml")
    rules = dict(RULES)
    if name == UMBRELLA:
        rules["global.settings"] = settings_schema(*SERVICES)
        # A sub-chart's values are checked by its own schema.
        for chart in CHARTS:
            rules[chart] = {
                "type": "object",
                "properties": {"enabled": {"type": "boolean"}},
                "required": ["enabled"],
            }
    elif name in SERVICES:
        rules["settings"] = settings_schema(name)
    rules |= OWN_RULES.get(name, {})
    schema = _object(values, values.defaults, "", rules)
    if name != UMBRELLA:
        # Helm adds these: the umbrella's, the condition's, and the library's own (empty) values.
        schema["properties"] |= {
            "global": {"type": "object"},
            "enabled": {"type": "boolean"},
            "common": {"type": "object"},
        }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": name, **schema}


def _object(
    values: Values, defaults: dict[str, Any], path: str, rules: dict[str, Schema]
) -> Schema:
    properties: Schema = {}
    for key, default in defaults.items():
        where = f"{path}.{key}" if path else key
        schema = rules.get(where) or _typed(values, default, where, rules)
        comment = values.comments.get(where)
        properties[key] = {"description": comment, **schema} if comment else schema
    # `null` removes a default: where the templates lean on one, that is said here, by its name.
    # What is empty by default may be removed as well.
    needed = [key for key, default in defaults.items() if default not in ({}, [], "")]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**schema, "required": needed} if needed else schema


def _typed(values: Values, default: object, path: str, rules: dict[str, Schema]) -> Schema:
    if isinstance(default, dict):
        # An empty map, and whatever has the shape of a Kubernetes object, is the user's own.
        if default and path != "resources":
            return _object(values, default, path, rules)
        return {"type": "object"}
    for kind, name in ((bool, "boolean"), (int, "integer"), (list, "array"), (str, "string")):
        if isinstance(default, kind):
            return {"type": name}
    raise TypeError(f"{path}: no rule for {default!r}")


def schemas(workspace: Workspace) -> dict[str, str]:
    """The text of every schema file, by its path below the workspace."""
    return {
        str((workspace.chart(name) / "values.schema.json").relative_to(workspace.root)): (
            json.dumps(chart_schema(workspace, name), indent=2) + "\n"
        )
        for name in (*CHARTS, UMBRELLA)
    }
