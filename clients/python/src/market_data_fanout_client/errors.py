"""What a client raises."""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything this package raises."""


class Refused(ClientError):
    """The gateway will not let this client in; trying again would not help.

    Attributes:
        code: an error code of the protocol (2001: the key is wrong), else the HTTP status.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{message} (code {code})")


class Unreachable(ClientError):
    """No connection stood after as many attempts in a row as were allowed.

    Attributes:
        attempts: how many were made.
        reason: why the last one failed.
    """

    def __init__(self, url: str, attempts: int, reason: str) -> None:
        self.attempts, self.reason = attempts, reason
        super().__init__(f"{url} was not reached in {attempts} attempts: {reason}")


class NotSubscribed(ClientError):
    """There is no such stream among the subscriptions of this client."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"not subscribed to {stream}")
