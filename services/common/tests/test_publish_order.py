"""A record that is refused or lost, and those behind it: at each lane, and in a publisher."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.stream import LogSpec, Position, Publisher
from services.common.stream.nats.broker import NatsBroker
from services.common.stream.nats.publishing.lanes import BatchLane, Contended, Lane
from services.common.stream.nats.publishing.reconcile import Fate, ReadBack
from services.common.testing.conformance import BTC, ETH, LOG, PATIENCE_S, record
from tests.simulation.nats_model.scripted import ScriptedNats, Verdict, identity_of


class _Log:
    """A JetStream stream in miniature: a record's own id is looked for before the one it names."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    def take(self, identity: str, follows: str) -> bool:
        if identity in self.stored:
            return True
        if follows and (not self.stored or self.stored[-1] != follows):
            return False
        self.stored.append(identity)
        return True


@given(
    subjects=st.lists(st.sampled_from("abc"), max_size=30),
    runs=st.booleans(),
    lost=st.sets(st.integers(0, 30)),
    window=st.integers(1, 8),
    at_once=st.integers(1, 30),
    others=st.dictionaries(
        st.integers(0, 30), st.lists(st.sampled_from("abcz"), max_size=3), max_size=10
    ),
)
def test_no_record_is_stored_after_one_of_its_subject_that_was_lost(
    subjects: list[str],
    runs: bool,
    lost: set[int],
    window: int,
    at_once: int,
    others: dict[int, list[str]],
) -> None:
    """Nor after one that was refused, while another writes the same records, and some of its own.

    So many come at once, and the others one by one while those are on their way.
    `others` says before which of this lane's records the other one stores its next of a subject.
    """
    lane = Lane[str](runs=runs)
    log = _Log()
    identities = [f"{subject}{number}" for number, subject in enumerate(subjects)]
    ahead = {s: iter([one for one in identities if one[0] == s]) for s in "abc"}
    ahead["z"] = iter([f"z{number}" for number in range(100)])
    coming = deque(identities)
    on_the_way: deque[tuple[int, str, str]] = deque()
    sent = 0
    while True:
        for _ in range(1 if sent else min(at_once, len(coming))):
            if coming:
                lane.enqueue(coming[0][0], coming[0], coming.popleft(), 1)
        for ready in lane.next(window - len(on_the_way)):
            on_the_way.append((sent, *ready))
            sent += 1
        if not on_the_way:
            break
        number, identity, follows = on_the_way.popleft()
        for subject in others.get(number, ()):
            # It too stores a subject's record behind the one before, whoever stored that.
            mine = next((one for one in ahead[subject] if one not in log.stored), None)
            if mine is not None:
                log.stored.append(mine)
        if number not in lost and log.take(identity, follows):
            lane.stored(identity[0])
    for subject in "abc":
        wanted = [identity for identity in identities if identity[0] == subject]
        held = [identity for identity in log.stored if identity[0] == subject]
        assert held == wanted[: len(held)]
    if not lost and not others:
        assert sorted(log.stored) == sorted(identities)


@given(
    st.lists(st.sampled_from("abc"), max_size=30),
    st.sets(st.integers(0, 10)),
    st.integers(1, 5),
)
def test_a_lane_of_batches_sends_all_in_order_and_nothing_behind_a_lost_batch(
    subjects: list[str], lost: set[int], most: int
) -> None:
    lane = BatchLane[str]()
    identities = [f"{subject}{number}" for number, subject in enumerate(subjects)]
    log: list[str] = []
    for subject, identity in zip(subjects, identities, strict=True):
        lane.enqueue(subject, identity, identity, 1)
    number = 0
    while batch := lane.next(most, 1000):
        assert len(batch) <= most
        assert lane.next(most, 1000) == []
        if number not in lost:
            log += batch
            assert lane.stored(batch[-1]) == batch
        number += 1
    assert log == identities[: len(log)]
    assert lane.idle == (log == identities)


def test_a_batch_is_bounded_in_bytes_and_takes_one_larger_record_alone() -> None:
    lane = BatchLane[int]()
    for number, size in enumerate((60, 30, 200, 50, 50, 1)):
        lane.enqueue("a", str(number), number, size)
    found = []
    while batch := lane.next(10, 100):
        found.append(batch)
        lane.stored(batch[-1])
    assert found == [[0, 1], [2], [3, 4], [5]]


def test_a_log_seen_shared_again_and_again_counts_as_shared_for_longer() -> None:
    contended = Contended()
    assert ("raw", 0.0) not in contended
    assert [contended.seen("raw", 100.0) for _ in range(9)][:3] == [30.0, 60.0, 120.0]
    assert ("raw", 100.0 + 3599) in contended
    assert ("raw", 100.0 + 3601) not in contended
    assert ("tick.0", 100.0) not in contended
    assert contended.seen("raw", 100.0 + 3 * 3600) == 30.0


def test_a_batch_that_is_refused_is_followed_by_none_whoever_asks() -> None:
    lane = BatchLane[str]()
    for item in "abcd":
        lane.enqueue(item, item, item, 1)
    assert lane.next(2, 100) == ["a", "b"]
    assert lane.refuse("b") == ["a", "b"]
    assert lane.next(2, 100) == []
    lane.enqueue("e", "e", "e", 1)
    assert lane.next(2, 100) == []
    assert not lane.idle


def test_an_answer_to_an_earlier_batch_says_nothing_of_the_one_on_its_way() -> None:
    lane = BatchLane[str]()
    for item in "abcd":
        lane.enqueue(item, item, item, 1)
    lane.next(2, 100)
    assert lane.stored("b") == ["a", "b"]
    assert lane.next(2, 100) == ["c", "d"]
    assert lane.stored("b") == []
    assert lane.next(2, 100) == []
    assert lane.refuse("b") == []
    assert lane.stored("d") == ["c", "d"]


@pytest.mark.parametrize("runs", [False, True])
def test_a_lane_that_had_a_record_refused_gives_out_none_whatever_else_is_acknowledged(
    runs: bool,
) -> None:
    lane = Lane[str](runs=runs)
    for item in ("a1", "b1", "c1"):
        lane.enqueue(item, item, item, 1)
    for first in ("a1", "b1", "c1"):
        assert lane.next(1) == [(first, "")]
    for item in ("a2", "b2", "c2"):
        lane.enqueue(item[0] + "1", item, item, 1)
    lane.stored("a1")
    lane.stored("b1")
    lane.refuse()
    lane.stored("c1")
    assert lane.next(1) == []
    lane.enqueue("d1", "d1", "d1", 1)
    assert lane.next(1) == []
    assert not lane.idle


@given(
    st.lists(st.integers(1, 30), unique=True),
    st.integers(0, 10),
    st.lists(st.integers(1, 40), unique=True, min_size=1).map(sorted),
)
def test_what_became_of_a_record_is_told_from_the_record_and_not_from_a_newer_one(
    stored: list[int], gone: int, wanted: list[int]
) -> None:
    """The log holds `stored` in that order, without the first `gone`, which went by age."""
    held = sorted(stored)[gone:]
    back = ReadBack(
        {Position(1, seq): place for place, seq in enumerate(held, gone + 1)},
        Position(1, held[-1]) if held else None,
        Position(1, held[0]) if held and gone else None,
    )
    for seq in wanted:
        fate = back.fate(Position(1, seq))
        if seq in held:
            assert fate is Fate.STORED
        elif not held or seq > held[-1]:
            assert fate is Fate.MISSING
        elif gone and seq < held[0]:
            assert fate is Fate.EXPIRED
        else:
            assert fate is Fate.LOST


# ---------------------------------------------------------------------- a whole publisher

# Name: replicas, whether the server takes batches, records of each subject (more than two batches).
LANES = {
    "batches": (3, True, 700),
    "one by one": (3, False, 40),
    "runs": (1, False, 700),
}


async def _publish(lane: str, verdicts: Sequence[Verdict]) -> tuple[ScriptedNats, Publisher]:
    """Publish on two subjects in turn until all is stored or lost; the server, the publisher."""
    replicas, batches, count = LANES[lane]
    async with (
        ScriptedNats(batches=batches, verdicts=verdicts) as server,
        NatsBroker([server.url], replicas=replicas) as broker,
    ):
        await broker.ensure([LogSpec(LOG, 3600)])
        publisher = await broker.publisher()
        for n in range(1, count + 1):
            for subject in (BTC, ETH):
                await publisher.send(record(n, subject))
        async with asyncio.timeout(PATIENCE_S):
            await publisher.flush()
        return server, publisher


def _all(lane: str) -> list[int]:
    return list(range(1, LANES[lane][2] + 1))


def _stored(server: ScriptedNats, subject: str) -> list[int]:
    return [int(identity.split(":")[4]) for identity in server.identities(subject)]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(
    "verdict",
    [Verdict.REFUSE, Verdict.DROP, Verdict.STORE_UNSAID, Verdict.STORE_REFUSED],
)
@pytest.mark.parametrize("accepted", [0, 1, 2])
async def test_what_is_refused_is_stored_before_what_comes_behind_it(
    lane: str, verdict: Verdict, accepted: int
) -> None:
    server, publisher = await _publish(lane, [Verdict.STORE] * accepted + [verdict])
    for subject in (BTC, ETH):
        assert _stored(server, subject) == _all(lane)
    assert publisher.stats().lost == 0
    assert publisher.stats().in_flight == 0


@settings(max_examples=20, deadline=None)
@given(
    lane=st.sampled_from(sorted(LANES)),
    verdicts=st.lists(
        st.sampled_from([verdict for verdict in Verdict if verdict is not Verdict.FORGET]),
        max_size=5,
    ),
)
def test_no_order_of_refusals_and_lost_answers_loses_doubles_or_turns_round_a_record(
    lane: str, verdicts: list[Verdict]
) -> None:
    server, publisher = asyncio.run(_publish(lane, verdicts))
    for subject in (BTC, ETH):
        assert _stored(server, subject) == _all(lane)
    stats = publisher.stats()
    assert stats.lost == 0
    assert stats.stored + stats.duplicates == 2 * LANES[lane][2]


async def test_a_batch_that_the_log_forgot_beneath_a_newer_one_is_told_as_lost() -> None:
    """Its leader acknowledged it, and the next leader stored the batch behind it without it."""
    verdicts = [Verdict.STORE, Verdict.FORGET, Verdict.STORE]
    server, publisher = await _publish("batches", verdicts)
    kept = {
        subject: [n for n in _all("batches") if f"{n}" not in _forgotten(server, subject)]
        for subject in (BTC, ETH)
    }
    assert len(server.forgotten) == 500
    for subject in (BTC, ETH):
        assert _stored(server, subject) == kept[subject]
    assert publisher.stats().lost == 500


async def test_a_batch_that_the_log_forgot_is_written_again_while_nothing_newer_is_there() -> None:
    verdicts = [Verdict.STORE, Verdict.FORGET, Verdict.REFUSE]
    server, publisher = await _publish("batches", verdicts)
    for subject in (BTC, ETH):
        assert _stored(server, subject) == _all("batches")
    assert publisher.stats().lost == 0


def _forgotten(server: ScriptedNats, subject: str) -> set[str]:
    return {identity_of(s).split(":")[4] for s in server.forgotten if s.subject == subject}
