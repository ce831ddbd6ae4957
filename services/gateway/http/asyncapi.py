"""`/asyncapi.json`: the client protocol as an AsyncAPI 3 document, made from the models.

`python -m services.gateway.http.asyncapi > docs/asyncapi.json` writes the documentation's copy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.common.observability.health import package_version
from services.gateway.http.messages import SERVER_MESSAGES
from services.gateway.protocol import COMMANDS, ERROR_CODES, SUBPROTOCOL


def asyncapi_document() -> dict[str, Any]:
    """The whole document."""
    inbound = list(COMMANDS.values())
    outbound = list(SERVER_MESSAGES)
    _, schemas = models_json_schema(
        [
            *((model, "validation") for model in inbound),
            *((model, "serialization") for model in outbound),
        ],
        ref_template="#/components/schemas/{model}",
    )
    table = "\n".join(f"| {row.code} | {row.name} | {row.retry} |" for row in ERROR_CODES)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Market Data Fan-Out {SUBPROTOCOL}",
            "version": package_version(),
            "description": "One JSON object per text frame. Error codes:\n\n"
            f"| code | name | retry |\n|---|---|---|\n{table}",
        },
        "channels": {
            "ws": {
                "address": "/ws",
                "messages": {
                    model.__name__: {"$ref": f"#/components/messages/{model.__name__}"}
                    for model in [*inbound, *outbound]
                },
            }
        },
        "operations": {
            "command": _operation("receive", inbound),
            "push": _operation("send", outbound),
        },
        "components": {
            "messages": {
                model.__name__: {
                    "summary": (model.__doc__ or "").strip().split("\n")[0],
                    "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
                }
                for model in [*inbound, *outbound]
            },
            "schemas": schemas["$defs"],
        },
    }


def _operation(action: str, models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/ws"},
        "messages": [{"$ref": f"#/channels/ws/messages/{model.__name__}"} for model in models],
    }


def asyncapi_text() -> str:
    """The document as a file."""
    return json.dumps(asyncapi_document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(asyncapi_text())
