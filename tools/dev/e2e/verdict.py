"""Whether a load test saw what it should while everything was restarted. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class NoResult(Exception):
    """The load test's output does not end with its JSON line."""


def result_of(output: str) -> dict[str, Any]:
    """The last line of `mdf loadtest` that is a JSON object.

    Raises:
        NoResult: there is none.
    """
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

    Args:
        result: what `mdf loadtest` printed.
        succeeded: whether it ended with status 0.
        outlived: whether it still ran when the last restart was over.
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
