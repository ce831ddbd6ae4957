"""The IAM policies in `deploy/iam`: read, filled in, and asked what they allow."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
IAM = ROOT / "deploy" / "iam"
ROLES = ("snapshotter", "gateway", "operator")
VALUES = {
    "AWS_ACCOUNT_ID": "111122223333",
    "AWS_REGION": "us-east-1",
    "DDB_TABLE": "test-latest",
    "S3_BUCKET": "test-archive",
    "CLUSTER": "main",
    "NAMESPACE": "market-data",
    "OIDC_PROVIDER": "oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE",
}


class Call(NamedTuple):
    """One operation on one resource, as IAM sees it."""

    operation: str
    action: str
    resource: str


def document(name: str, **more: str) -> dict[str, Any]:
    """A policy with its placeholders filled in; a placeholder nobody explains is an error."""
    text = string.Template((IAM / f"{name}.json").read_text()).substitute(VALUES | more)
    found: dict[str, Any] = json.loads(text)
    return found


def as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def allowing(call: Call, statements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The statements that allow the call; none has a condition or a Deny (see the test)."""
    return [
        one
        for one in statements
        if call.action in as_list(one["Action"])
        and any(fnmatchcase(call.resource, pattern) for pattern in as_list(one["Resource"]))
    ]
