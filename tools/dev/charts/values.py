"""A commented values.yaml: what its comments say, and the README and JSON schema made of it.

In the schema the defaults give the types, the `# --` comments the descriptions, `rules.yaml` what a
default cannot say. The names under `settings` are those of the service's settings class, so a
misspelt variable is refused at `helm install`; secrets are not among them, since a ConfigMap is no
place for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from tools.dev.charts.workspace import CHARTS, SERVICES, UMBRELLA, Workspace
from tools.doctor.checks import SETTINGS

_LINE = re.compile(r"^(?P<indent> *)(?:# -- (?P<text>.*)|(?P<key>[A-Za-z_][\w.]*):)")


@dataclass(frozen=True, slots=True)
class Values:
    """`comments` are keyed by dotted path, as `helm --set` writes it."""

    defaults: dict[str, Any]
    comments: dict[str, str]

    def meaning(self, path: str) -> str:
        """The comment of a value, or of what it is part of; empty if there is none."""
        while path not in self.comments and "." in path:
            path = path.rpartition(".")[0]
        return self.comments.get(path, "")


def read_values(file: Path) -> Values:
    """Block style only: a comment belongs to the key on the line below it."""
    text = file.read_text()
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending = ""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            pending = ""
            continue
        if found["text"] is not None:
            pending = found["text"]
            continue
        indent = len(found["indent"])
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, found["key"]))
        if pending:
            comments[".".join(key for _, key in path)] = pending
            pending = ""
    return Values(yaml.safe_load(text), comments)


def readmes(workspace: Workspace) -> dict[str, str]:
    """The text of every chart's `README.md`, by its path below the workspace."""
    return {
        workspace.path(name, "README.md"): _readme(workspace, name) for name in (*CHARTS, UMBRELLA)
    }


def _readme(workspace: Workspace, name: str) -> str:
    folder = workspace.chart(name)
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    values = read_values(folder / "values.yaml")
    rows = [
        f"| `{path}` | `{json.dumps(default)}` | {values.meaning(path)} |"
        for path, default in _leaves(values.defaults)
    ]
    return "\n".join(
        (
            f"# {name}",
            "",
            chart["description"],
            "",
            "Installing, upgrading and what the values mean together: `docs/operations.md`.",
            "This table is made from `values.yaml` by `make manifests`.",
            "",
            "| value | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        )
    )


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


type Schema = dict[str, Any]

_RULES = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text())
# Settings that follow from other values, or from the shape of the pod.
OWNED = {
    *("ADMIN_PORT", "HTTP_HOST", "HTTP_PORT", "NATS_CREDS_FILE"),
    *("NATS_TLS_CA_FILE", "NATS_TLS_CERT_FILE", "NATS_TLS_KEY_FILE"),
    *("COINBASE_PRODUCTS", "NORMALIZER_SHARDS", "SNAPSHOTTER_SHARDS"),
    *("DRAIN_SECONDS", "DRAIN_TIMEOUT_MS", "STOP_GRACE_S"),
}


def settings_files(workspace: Workspace) -> dict[str, str]:
    """`settings.txt` of each service's chart: the variables that the service reads, one a line."""
    return {
        workspace.path(name, "settings.txt"): "".join(
            f"{field.upper()}\n" for field in sorted(SETTINGS[name].model_fields)
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
        for name, field in SETTINGS[service].model_fields.items()
        if SecretStr.__name__ not in str(field.annotation) and name.upper() not in OWNED
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


def chart_schema(workspace: Workspace, name: str) -> Schema:
    values = read_values(workspace.chart(name) / "values.yaml")
    rules: dict[str, Schema] = dict(_RULES["all"])
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
    rules |= _RULES["charts"].get(name, {})
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
    return {
        workspace.path(name, "values.schema.json"): (
            json.dumps(chart_schema(workspace, name), indent=2) + "\n"
        )
        for name in (*CHARTS, UMBRELLA)
    }
