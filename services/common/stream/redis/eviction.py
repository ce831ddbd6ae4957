"""Whether a Redis deletes records by itself when its memory is full. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EVICTION_ACTION = (
    "set maxmemory-policy noeviction: a full server then refuses, records wait, and nothing that "
    "was acknowledged is deleted"
)


def eviction_of(memory: object) -> str | None:
    """What `INFO memory` says of it; None where nothing that is acknowledged is deleted.

    Policies named `volatile-` delete keys that expire, and none of a log's keys does.
    """
    if not isinstance(memory, Mapping):
        return None
    told: Mapping[str, Any] = memory
    policy = str(told.get("maxmemory_policy", "noeviction"))
    bounded = str(told.get("maxmemory", 0)) not in ("0", "")
    if not bounded or not policy.startswith("allkeys-"):
        return None
    return f"maxmemory-policy is {policy}: a full Redis deletes acknowledged records"
