"""`/openapi.json`: what the ingestor's HTTP side takes and answers."""

from __future__ import annotations

from typing import Any

from services.common.observability.health import package_version

_JSON = "application/json"
_GUARDED: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
_REFUSED = {
    "401": {"$ref": "#/components/responses/Problem"},
    "403": {"$ref": "#/components/responses/Problem"},
}


def openapi_document() -> dict[str, Any]:
    """The whole document."""
    problem = {"$ref": "#/components/responses/Problem"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Market Data Fan-Out ingestor",
            "version": package_version(),
            "description": "What the feeds are doing. Calls that change something need "
            "`ADMIN_API_KEY`; where it is not set they are answered by 403.",
        },
        "paths": {
            "/feeds": {"get": {"summary": "All feeds", "responses": {"200": _object("feeds")}}},
            "/feeds/{name}": {
                "get": {
                    "summary": "One feed",
                    "parameters": [_in_path("name")],
                    "responses": {"200": _object("name"), "404": problem},
                }
            },
            "/products": {
                "put": {
                    "summary": "Change the products at run time",
                    "security": _GUARDED,
                    "requestBody": {
                        "required": True,
                        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Products"}}},
                    },
                    "responses": {
                        "200": _object(),
                        "400": problem,
                        **_REFUSED,
                        "409": problem,
                        "503": problem,
                    },
                }
            },
            "/products/{product}/resync": {
                "post": {
                    "summary": "Take a product's book anew",
                    "security": _GUARDED,
                    "parameters": [_in_path("product")],
                    "responses": {"202": _object("product", "resync"), **_REFUSED, "404": problem},
                }
            },
        },
        "components": {
            "schemas": {
                "Products": {
                    "type": "object",
                    "required": ["products"],
                    "properties": {
                        "products": {
                            "type": "array",
                            "examples": [["BTC-USD", "ETH-USD"]],
                            "minItems": 1,
                            "items": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                        }
                    },
                }
            },
            "responses": {"Problem": _object("error", description="What is wrong")},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _object(*required: str, description: str = "Done") -> dict[str, Any]:
    schema = {"type": "object", "required": list(required)}
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _in_path(name: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    place = {"name": name, "in": "path", "required": True, "schema": schema}
    return place | ({"example": "BTC-USD"} if name == "product" else {})
