"""The platform's exceptions: each leaf is a situation the caller can act on.

    PlatformError
    ├── SettingsError          settings are missing or malformed; fix the environment
    ├── InvalidSubject         a name cannot be part of a subject; reject the input
    ├── BrokerError
    │   ├── BrokerUnavailable  no answer from the broker now; try again later
    │   ├── BrokerClosed       somebody closed this broker object; stop using it
    │   ├── BrokerFailed       it broke by an error nobody foresaw; open another, or end
    │   ├── LogWentBack        a log lost what a publisher's records follow; compute them again
    │   ├── PositionLost       the log no longer holds what follows a cursor; take a snapshot
    │   └── RecordRefused      the broker can never store this record; park it and go on
    │       └── RecordTooLarge for its size
    ├── StoreError
    │   ├── StoreUnavailable   DynamoDB or S3 did not answer, or throttled; try again later
    │   └── StoreMissing       the table or bucket does not exist; an operator has to act
    └── VenueError
        ├── VenueUnavailable   the venue did not answer, or said 429/5xx; try again later
        └── VenueRefused       the venue answered with a refusal; trying again will not help

Drivers' exceptions are translated into these where the adapter ends, and chained.
"""

from __future__ import annotations


class PlatformError(Exception):
    """Root of everything this platform raises on purpose."""


class SettingsError(PlatformError):
    """One line per problem; `problems` holds them."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class InvalidSubject(PlatformError):
    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"{text!r} cannot be part of a subject: {reason}")


class BrokerError(PlatformError):
    """Anything that went wrong between this process and the broker."""


class BrokerUnavailable(BrokerError):
    def __init__(self, target: str, reason: str) -> None:
        self.target = target
        self.reason = reason
        super().__init__(f"broker {target} unavailable: {reason}")


class BrokerClosed(BrokerError):
    """`what` was closed by whoever opened it, or with its broker."""

    def __init__(self, what: str = "broker") -> None:
        self.what = what
        super().__init__(f"{what} is closed")


class BrokerFailed(BrokerError):
    """`what` ended by an error that nobody foresaw (the cause); what it held may be lost."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} failed: {reason}")


class LogWentBack(BrokerError):
    """What stands before `position` is gone from the log, whose newest there is `newest`."""

    def __init__(
        self,
        subject: str,
        position: tuple[int, int, int],
        newest: tuple[int, int, int] | None,
    ) -> None:
        self.subject = subject
        self.position = position
        self.newest = newest
        super().__init__(
            f"{subject}: what stands before {tuple(position)} is gone; the newest is "
            f"{newest and tuple(newest)}"
        )


class PositionLost(BrokerError):
    """What follows `cursor` in `subject` is no longer (or not) in this log."""

    def __init__(self, subject: str, cursor: str, oldest: str | None) -> None:
        self.subject = subject
        self.cursor = cursor
        self.oldest = oldest
        super().__init__(f"{subject}: nothing can follow cursor {cursor!r}; oldest is {oldest!r}")


class RecordRefused(BrokerError):
    """What is wrong with the record (`reason`) stays wrong however often it is sent."""

    def __init__(self, subject: str, reason: str) -> None:
        self.subject = subject
        self.reason = reason
        super().__init__(f"{subject}: {reason}")


class RecordTooLarge(RecordRefused):
    def __init__(self, subject: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(subject, f"record of {size} bytes, the broker takes at most {limit}")


class StoreError(PlatformError):
    """Anything that went wrong between this process and a store."""


class StoreUnavailable(StoreError):
    def __init__(self, store: str, reason: str) -> None:
        self.store = store
        self.reason = reason
        super().__init__(f"{store} unavailable: {reason}")


class StoreMissing(StoreError):
    """`made_here`: it was looked for by who makes it where that is allowed, and it was not."""

    def __init__(self, store: str, name: str, *, made_here: bool = False) -> None:
        self.store = store
        self.name = name
        refused = ", and in production none is made: make it first" if made_here else ""
        super().__init__(f"{store} {name!r} does not exist{refused}")


class VenueError(PlatformError):
    """Anything that went wrong between this process and a venue; `status` is HTTP's."""

    said = ""

    def __init__(self, target: str, reason: str, *, status: int | None = None) -> None:
        self.target = target
        self.reason = reason
        self.status = status
        super().__init__(f"{target}{self.said}: {reason}")


class VenueUnavailable(VenueError):
    """No answer, or one of 429 and 5xx."""


class VenueRefused(VenueError):
    """An answer that is a refusal."""

    said = " refused"
