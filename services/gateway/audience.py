"""Who gets a stream: clients, their subscriptions, and those of a stream that are live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Literal

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.gateway.conflation import Conflation
from services.gateway.forms import Form
from services.gateway.metrics import METRICS
from services.gateway.outbox import Outbox
from services.gateway.ratelimit import TokenBucket
from services.gateway.records import Entry

Mode = Literal["full", "latest"]
BEGINNING = Position(0, 0)
_NO_PAGE: deque[Entry] = deque(maxlen=0)
_NO_PREFACE: deque[bytes] = deque(maxlen=0)


class Client(ABC):
    """The hub's view of a connection.

    Attributes:
        quick: nothing waits for it and its transport takes data: it gets what all get, at once.
        form: how frames are written for it.
        fd: descriptor that may be written to while it is `quick`; negative: `unsent` has to be
            called instead. What the kernel does not take has to be given to `unsent` then.
        brought: how many of the turn's pushes it was given on its own. The hub's.
    """

    # Side by side in memory: with thousands of clients it is cache misses that a loop over them
    # costs, more than instructions.
    __slots__ = ("brought", "fd", "form", "outbox", "quick")

    outbox: Outbox
    form: Form
    fd: int
    quick: bool
    brought: int

    def __init__(self, outbox: Outbox, form: Form, fd: int) -> None:
        self.quick = False
        self.form = form
        self.fd = fd
        self.brought = 0
        self.outbox = outbox

    @abstractmethod
    def unsent(self, frames: bytes, sent: int) -> None:
        """Of `frames` only `sent` bytes were taken: write the others, before all else."""

    @abstractmethod
    def flush(self) -> None:
        """Write what the outbox holds, as far as the transport takes it, and say if `quick`."""

    @property
    @abstractmethod
    def writable(self) -> bool:
        """Whether what is written now goes to the kernel rather than waiting here."""

    @abstractmethod
    def fell_behind(self, subscription: Subscription, records: int) -> None:
        """It was taken off the live push, its outbox being full; it has `records` to catch up."""

    @abstractmethod
    def rebased(self, subscription: Subscription) -> None:
        """The stream's chain could not go on from before: it needs the state anew."""

    @abstractmethod
    def over_quota(self, subscription: Subscription) -> None:
        """It gets more than its share of messages; it is conflated from now on."""

    @abstractmethod
    def within_quota(self, subscription: Subscription) -> None:
        """It gets every record again."""


class Subscription:
    """One client's interest in one stream; at most one of a client is live on a stream.

    Attributes:
        mode: what the client asked for; `conflation` is set while messages are merged.
        position: while catching up, the last record put into the outbox.
        seq: while catching up, the chain's seq the client will hold then.
    """

    __slots__ = (
        "client",
        "conflation",
        "count",
        "cursor",
        "depth",
        "fan",
        "live",
        "max_rate",
        "mode",
        "on_unrecoverable",
        "outbox",
        "page",
        "position",
        "preface",
        "quota",
        "reason",
        "seq",
        "since",
        "start",
    )

    def __init__(self, client: Client, fan: Fan) -> None:
        self.client = client
        self.outbox = client.outbox
        self.fan = fan
        self.depth = 0
        self.mode: Mode = "full"
        self.max_rate: float | None = None
        self.on_unrecoverable: Literal["snapshot", "error"] = "snapshot"
        self.live = False
        self.conflation: Conflation | None = None
        self.quota: TokenBucket | None = None
        # Catching up.
        self.reason: Literal["backfill", "slow", "snapshot"] = "snapshot"
        self.position = BEGINNING
        self.seq: int | None = None
        self.start = 0
        self.count = 0
        self.since = 0.0
        self.cursor = ""
        # Replaced by what is read; an empty one of its own would take 0.7 KiB.
        self.page: deque[Entry] = _NO_PAGE
        self.preface: deque[bytes] = _NO_PREFACE


class Audience:
    """The clients that get the same messages of one stream: all its records, at one depth."""

    __slots__ = ("fan", "members")

    def __init__(self, fan: Fan) -> None:
        self.fan = fan
        self.members: dict[Client, Subscription] = {}


class Fan:
    """The live clients of one stream: in `full` mode by depth, and those that are conflated."""

    __slots__ = ("conflated", "end_to_end", "full", "key", "labels", "sent")

    def __init__(self, key: StreamKey) -> None:
        self.key = key
        self.full: dict[int, Audience] = {}
        self.conflated: dict[Subscription, None] = {}
        self.labels = (key.venue, key.channel)
        # Looked up once: `labels` takes a lock and builds a key each time.
        self.sent = METRICS.sent.labels(*self.labels)
        self.end_to_end = METRICS.end_to_end.labels(*self.labels)

    def subscriptions(self) -> list[Subscription]:
        """Those that are live now, in any mode."""
        full = (one for audience in self.full.values() for one in audience.members.values())
        return [*self.conflated, *full]
