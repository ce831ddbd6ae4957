"""Who gets a stream: clients, and those of a stream's subscriptions that are live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from services.common.subjects import StreamKey
from services.gateway.fanout.outbox import FrameEncoding, Outbox
from services.gateway.fanout.subscription import Subscription, View


class SubscriptionListener(ABC):
    """What is told of a client's subscriptions when the hub changed their state by itself.

    It is told at the end of the turn, when everything is in its final state, and not at all where
    that has changed since.
    """

    __slots__ = ()

    @abstractmethod
    def fell_behind(self, subscription: Subscription, records: int) -> None:
        """It catches up from now on, its outbox having been full; `records` are the first."""

    @abstractmethod
    def rebased(self, subscription: Subscription) -> None:
        """The stream's chain could not go on from before: it rests, and needs the state anew."""

    @abstractmethod
    def over_quota(self, subscription: Subscription) -> None:
        """It gets more than its share of messages; it is merged from now on."""

    @abstractmethod
    def within_quota(self, subscription: Subscription) -> None:
        """It gets every record again."""


class Subscriber(ABC):
    """The hub's view of a connection."""

    # Side by side in memory: with thousands of clients it is cache misses that a loop over them
    # costs, more than instructions.
    __slots__ = ("brought", "encoding", "fd", "outbox", "quick", "subscriptions")

    subscriptions: SubscriptionListener  # told what became of them; the owner sets it

    def __init__(self, outbox: Outbox, encoding: FrameEncoding, fd: int) -> None:
        # Nothing waits for it and its transport takes data: it gets what all get, at once.
        self.quick = False
        self.encoding = encoding  # how frames are written for it
        # Descriptor that may be written to while it is `quick`; negative: `unsent` has to be called
        # instead. What the kernel does not take has to be given to `unsent` then.
        self.fd = fd
        self.brought = 0  # how many of the turn's pushes it was given on its own. The hub's.
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
    def failed(self) -> None:
        """Something went wrong here that nobody foresaw, while it was served: end it."""


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class Gauge(Counter, Protocol):
    def dec(self, amount: float = 1) -> None: ...


class Histogram(Protocol):
    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None: ...


class StreamMetrics(NamedTuple):
    """What is counted of a stream, without knowing the library that counts; `Metrics` has each."""

    sent: Counter
    conflated: Counter
    end_to_end: Histogram
    subscriptions: Gauge
    snapshot_seconds: Histogram
    backfill_seconds: Histogram
    backfill_ticks: Counter


@dataclass(slots=True, eq=False)
class ViewGroup:
    """The clients that get the same messages of one stream: all its records, in one view."""

    live_stream: LiveStream
    members: dict[Subscriber, Subscription] = field(default_factory=dict)


class LiveStream:
    """The live clients of one stream: in `full` mode by view, and those that are conflated."""

    __slots__ = ("conflated", "end_to_end", "full", "key", "metrics", "sent")

    def __init__(self, key: StreamKey, metrics: StreamMetrics) -> None:
        self.key = key
        self.full: dict[View, ViewGroup] = {}
        self.conflated: dict[Subscription, None] = {}
        self.metrics = metrics
        # Here too: each push counts, and one look-up less is less.
        self.sent = metrics.sent
        self.end_to_end = metrics.end_to_end

    def subscriptions(self) -> list[Subscription]:
        """Those that are live now, in any mode."""
        full = (one for group in self.full.values() for one in group.members.values())
        return [*self.conflated, *full]
