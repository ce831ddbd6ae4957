"""Schemas of the custom resources that the charts render, so that they are checked as strictly.

Only what these charts use of each kind is in here: a field that is not is a fault, whether it is
misspelt or new. What a controller makes of the values is its own; these say that it can read them.
"""

from __future__ import annotations

from typing import Any

type Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"anyOf": [_COUNT, {"type": "string", "pattern": "^[0-9]+%$"}]}
# As Go reads durations: 90s, 10m, 1h.
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
_LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def _list(items: Schema, at_least: int = 1) -> Schema:
    return {"type": "array", "minItems": at_least, "items": items}


def _builtin(name: str) -> Schema:
    """A part that Kubernetes itself defines."""
    return {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.{name}"}


_SELECTOR = _object("matchLabels", matchLabels=_LABELS)
_SERVICE_MONITOR = _object(
    *("selector", "endpoints"),
    selector=_SELECTOR,
    podTargetLabels=_list(_TEXT),
    endpoints=_list(_object("port", port=_TEXT, path=_TEXT, interval=_DURATION)),
)
_RULE = _object(
    *("alert", "expr", "labels", "annotations"),
    **{"for": _DURATION},
    alert=_TEXT,
    expr=_TEXT,
    labels=_LABELS,
    annotations=_LABELS,
)
_RECORD = _object("record", "expr", record=_TEXT, expr=_TEXT, labels=_LABELS)
_GROUP = _object("name", "rules", name=_TEXT, rules=_list({"anyOf": [_RULE, _RECORD]}))
_PROMETHEUS_RULE = _object("groups", groups=_list(_GROUP))
_BEHAVIOR = _builtin("api.autoscaling.v2.HorizontalPodAutoscalerBehavior")
_SCALED_OBJECT = _object(
    *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"),
    scaleTargetRef=_object("apiVersion", "kind", "name", apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
    minReplicaCount=_COUNT,
    maxReplicaCount=_COUNT,
    pollingInterval=_COUNT,
    fallback=_object(
        *("failureThreshold", "replicas"),
        failureThreshold=_COUNT,
        replicas=_COUNT,
        behavior={
            "enum": [
                *("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower")
            ]
        },
    ),
    advanced=_object(horizontalPodAutoscalerConfig=_object(behavior=_BEHAVIOR)),
    triggers=_list(
        _object(
            *("type", "metadata"),
            type={"enum": ["prometheus", "cpu"]},
            metricType={"enum": ["AverageValue", "Value", "Utilization"]},
            # The controller takes text only, for numbers and booleans too.
            metadata=_LABELS,
            authenticationRef=_object("name", name=_TEXT, kind=_TEXT),
        )
    ),
)
_ARGUMENT = _object(
    *("name", "valueFrom"),
    name=_TEXT,
    valueFrom=_object(podTemplateHashValue={"enum": ["Latest", "Stable"]}),
)
_CANARY = _object(
    *("maxSurge", "maxUnavailable", "steps"),
    maxSurge=_SHARE,
    maxUnavailable=_SHARE,
    analysis=_object(
        *("templates", "args"),
        startingStep=_COUNT,
        templates=_list(_object("templateName", templateName=_TEXT)),
        args=_list(_ARGUMENT),
    ),
    steps=_list(
        {
            "anyOf": [
                _object("setWeight", setWeight={"type": "integer", "minimum": 0, "maximum": 100}),
                _object("pause", pause=_object(duration={"anyOf": [_COUNT, _DURATION]})),
            ]
        }
    ),
)
_ROLLOUT = _object(
    *("selector", "template", "strategy"),
    replicas=_COUNT,
    minReadySeconds=_COUNT,
    selector=_SELECTOR,
    template=_builtin("api.core.v1.PodTemplateSpec"),
    strategy=_object("canary", canary=_CANARY),
)
_SIGV4 = _object(region=_TEXT, profile=_TEXT, roleArn=_TEXT)
_PROMETHEUS = _object(
    *("address", "query"),
    address=_TEXT,
    query=_TEXT,
    authentication=_object(sigv4=_SIGV4),
)
_ANALYSIS_TEMPLATE = _object(
    *("metrics",),
    args=_list(_object("name", name=_TEXT)),
    metrics=_list(
        _object(
            *("name", "interval", "provider"),
            name=_TEXT,
            initialDelay=_DURATION,
            interval=_DURATION,
            failureLimit=_COUNT,
            inconclusiveLimit=_COUNT,
            successCondition=_TEXT,
            failureCondition=_TEXT,
            provider=_object("prometheus", prometheus=_PROMETHEUS),
        )
    ),
)

_SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _SERVICE_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PROMETHEUS_RULE,
    ("keda.sh/v1alpha1", "ScaledObject"): _SCALED_OBJECT,
    ("argoproj.io/v1alpha1", "Rollout"): _ROLLOUT,
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): _ANALYSIS_TEMPLATE,
}


def custom_schema(api_version: str, kind: str) -> Schema | None:
    """The schema of a whole object; None for a kind that the charts do not render.

    References lead into the definitions of a Kubernetes version (`kubernetes.validate`).
    """
    spec = _SPECS.get((api_version, kind))
    if spec is None:
        return None
    return _object(
        *("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=_builtin("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        spec=spec,
    )
