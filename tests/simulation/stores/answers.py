"""What the services answer and the SDK raises."""

from __future__ import annotations

from botocore.exceptions import ClientError


def refusal(operation: str, status: int, code: str, message: str) -> ClientError:
    """The service's answer that something is not done."""
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},  # type: ignore[typeddict-item]  # the rest of it nobody asks for
        },
        operation,
    )
