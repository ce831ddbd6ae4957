"""What goes wrong in one run, and when: it follows from the seed, and can be made less. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from tests.simulation.nats_part import CLUSTER_FAULTS, ClusterFault, cluster_fault
from tests.simulation.redis_part import RedisFault, at_redis

BrokerKind = Literal["nats", "redis"]
StoreFaultKind = Literal["away", "silent", "throttle", "error", "lost", "slow"]

# What can be killed: the exchange is the world's, and keeps its market.
KILLED = (
    "nats",
    "ingestor",
    "normalizer-1",
    "normalizer-2",
    "gateway-1",
    "gateway-2",
    "snapshotter-1",
    "snapshotter-2",
)
# Whose way to each other can be cut or slow.
_WAYS = (
    ("exchange", "ingestor"),
    ("ingestor", "nats"),
    ("normalizer-1", "nats"),
    ("normalizer-2", "nats"),
    ("gateway-1", "nats"),
    ("gateway-2", "nats"),
    ("client-1", "gateway-1"),
    ("client-2", "gateway-2"),
    ("snapshotter-1", "nats"),
    ("snapshotter-2", "nats"),
    ("snapshotter-1", "dynamodb"),
    ("snapshotter-2", "s3"),
    ("gateway-1", "dynamodb"),
    ("gateway-2", "s3"),
)
# What a store does that has a fault (`stores/remote.py` does it).
STORE_FAULTS: tuple[StoreFaultKind, ...] = (
    "away",
    "silent",
    "throttle",
    "error",
    "lost",
    "slow",
)
_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
# When the first fault may come, and when the last has to be over, in seconds.
FIRST_S = 12.0
LONGEST_S = 12.0
# How many faults a run has, unless asked for otherwise.
FAULTS = 5


@dataclass(frozen=True)
class Kill:
    """A process dies and is started again after `for_s`; `unplugged` with its machine."""

    at_s: float
    part: str
    for_s: float
    unplugged: bool


@dataclass(frozen=True)
class Partition:
    """Nothing gets through between two machines for `for_s`, or only `one_way`."""

    at_s: float
    ends: tuple[str, str]
    for_s: float
    one_way: bool


@dataclass(frozen=True)
class Slow:
    """What is sent between two machines takes up to `by_s` longer for `for_s`."""

    at_s: float
    ends: tuple[str, str]
    for_s: float
    by_s: float


@dataclass(frozen=True)
class FeedFault:
    """The exchange does to the next `count` messages of its feed what `kind` says."""

    at_s: float
    kind: str
    count: int


@dataclass(frozen=True)
class WrongClock:
    """A machine's wall clock jumps by `by_s`."""

    at_s: float
    part: str
    by_s: float


@dataclass(frozen=True)
class StoreFault:
    """A store does for `for_s` to those who ask it what `kind` says."""

    at_s: float
    store: str
    kind: StoreFaultKind
    for_s: float


Fault = Kill | Partition | Slow | FeedFault | WrongClock | StoreFault | RedisFault | ClusterFault


@dataclass(frozen=True)
class Plan:
    """One run: its seed, its products, its faults, and how long it lasts until all are over.

    `numbers` are the places that the faults have among those of the seed. The snapshotters share
    every log where they `overlap`, as in a rolling update; else each has shards of its own. NATS
    has one server, or three, which are a cluster, have three replicas of each log, and faults of
    their own. Of ingestors there is one, or two `lines` of the same products, and then one of the
    normalizers works and the other stands by.
    """

    seed: int
    products: tuple[str, ...]
    seconds: float
    faults: tuple[Fault, ...]
    numbers: tuple[int, ...]
    overlap: bool
    broker: BrokerKind = "nats"
    servers: int = 1
    lines: int = 1

    @property
    def names_in_order(self) -> bool:
        """Whether the names of the archive's objects tell the order of their records.

        They have the ingestor's time, and snapshotters that share a log each write some of the same
        minutes (docs/archive.md). Of two lines each has a time of its own.
        """
        return (
            not self.overlap
            and self.lines == 1
            and not any(
                isinstance(fault, WrongClock) and fault.part == "ingestor" and fault.by_s < 0
                for fault in self.faults
            )
        )

    @property
    def nothing_left_lying(self) -> bool:
        """Whether each of the archive's objects is named by a commit.

        Of one that is killed, what it had not committed stays where another shares its log, and
        where S3 does it only once the next process has looked (services/snapshotter/README.md). So
        does what one of two that share a log took away again before S3 had done it.
        """
        killed = any(
            isinstance(fault, Kill) and fault.part.startswith("snapshotter")
            for fault in self.faults
        )
        late = any(
            (isinstance(fault, StoreFault) and (fault.store, fault.kind) == ("s3", "slow"))
            or (isinstance(fault, Partition | Slow) and "s3" in fault.ends)
            for fault in self.faults
        )
        return sum((killed, self.overlap, late)) < 2

    def only(self, numbers: Iterable[int], products: int) -> Plan:
        """The same with some of its faults, and with its first products."""
        kept = tuple(number for number in self.numbers if number in set(numbers))
        faults = tuple(self.faults[self.numbers.index(number)] for number in kept)
        return replace(self, products=self.products[:products], faults=faults, numbers=kept)


def plan_of(seed: int, seconds: float = 60.0, faults: int = FAULTS) -> Plan:
    """The plan of a seed: `faults` of them within `seconds`."""
    chance = Random(seed)
    last = seconds - LONGEST_S
    made = faults_of(chance, faults, FIRST_S, last)
    broker = broker_of(seed)
    if broker == "redis":
        made = [at_redis(one, chance, LONGEST_S) for one in made]
    products = _PRODUCTS[: chance.randint(1, len(_PRODUCTS))]
    overlap = chance.random() < 0.5
    servers = servers_of(seed)
    if servers > 1:
        own = [
            cluster_fault(chance, chance.uniform(FIRST_S, last), LONGEST_S)
            for _ in range(CLUSTER_FAULTS)
        ]
        made = sorted([*made, *own], key=lambda one: one.at_s)
    numbers = tuple(range(len(made)))
    lines = Random(f"lines of {seed}").choice((1, 1, 2))
    return Plan(seed, products, seconds, tuple(made), numbers, overlap, broker, servers, lines)


def broker_of(seed: int) -> BrokerKind:
    """Which broker the platform of a seed has."""
    return Random(f"broker of {seed}").choice(("nats", "redis"))


def servers_of(seed: int) -> int:
    """How many servers the broker of a seed has."""
    return 1 if broker_of(seed) == "redis" else Random(f"servers of {seed}").choice((1, 3))


def faults_of(
    chance: Random,
    count: int,
    first_s: float,
    last_s: float,
    wanted: Callable[[Fault], bool] = lambda _: True,
) -> list[Fault]:
    """So many of those that are wanted, in the order in which they begin."""
    made: list[Fault] = []
    while len(made) < count:
        fault = _fault(chance, chance.uniform(first_s, last_s))
        if wanted(fault):
            made.append(fault)
    return sorted(made, key=lambda one: one.at_s)


def _fault(chance: Random, at_s: float) -> Fault:
    for_s = chance.uniform(0.05, LONGEST_S)
    makers: tuple[Callable[[], Fault], ...] = (
        lambda: Kill(at_s, chance.choice(KILLED), for_s, unplugged=chance.random() < 0.2),
        lambda: Partition(at_s, chance.choice(_WAYS), for_s, one_way=chance.random() < 0.3),
        lambda: Slow(at_s, chance.choice(_WAYS), for_s, chance.uniform(0.01, 2.0)),
        lambda: FeedFault(
            at_s, chance.choice(("drop", "duplicate", "reorder")), chance.randint(1, 20)
        ),
        lambda: WrongClock(at_s, chance.choice(KILLED), chance.uniform(-5.0, 5.0)),
        lambda: StoreFault(
            at_s, chance.choice(("dynamodb", "s3")), chance.choice(STORE_FAULTS), for_s
        ),
        # A new kind of fault is added here, at the end.
    )
    return chance.choice(makers)()


def shrunk(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The smallest plan found that still fails: fewer faults first, then fewer products."""
    smaller = True
    while smaller:
        smaller = False
        for number in plan.numbers:
            less = plan.only(set(plan.numbers) - {number}, len(plan.products))
            if fails(less):
                plan, smaller = less, True
                break
    for count in range(1, len(plan.products)):
        if fails(less := plan.only(plan.numbers, count)):
            return less
    return plan
