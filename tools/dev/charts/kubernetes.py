"""Rendered objects against the API's own schemas, from the `kubernetes-validate` package.

Custom resources are checked against ours (`custom`); a kind that neither knows is reported.

What the package does for one object is done here with its schema files, so that a schema is read
and compiled once and not once per object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no type information
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from tools.dev.charts.custom import custom_schema
from tools.dev.charts.workspace import Object


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
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator | None:
    if (custom := custom_schema(api_version, kind)) is not None:
        return jsonschema.Draft202012Validator(custom, registry=_definitions(version))
    # The files are named after kind, group without its domain, and version: ingress-networking-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = schema_contents(f"{_folder(version)}/{kind.lower()}-{group}.json", version)
    except FileNotFoundError:
        return None
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))
