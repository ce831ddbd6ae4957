"""The rule by which lines agree on who writes, over any order of what may happen to them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.common.lines.lease import RELEASED, TERM, Beat, Lease, Role

TAKEOVER_S = 1.0


def heard(lease: Lease, found: Beat | None, now: float) -> None:
    """The log says at once what it has."""
    lease.heard(found, now, now)


def after(lease: Lease, found: Beat | None, now: float) -> Beat | None:
    """What is due when the log says this."""
    heard(lease, found, now)
    return lease.due(now)


def standing(newest: Beat | None = None) -> Lease:
    """Line `b`, to which the log has said at 0 s that this is its newest beat."""
    lease = Lease("b", 7, TAKEOVER_S)
    heard(lease, newest, 0.0)
    return lease


OTHERS = Beat(4, 12, "a", 3)
OWN_CLAIM = Beat(5, 0, "b", 7)


def test_a_beats_place_in_the_log_counts_terms_and_beats() -> None:
    assert Beat.at(OTHERS.seq, "a", 3) == OTHERS
    assert Beat(4, RELEASED, "a", 3).seq < Beat(5, 0, "b", 7).seq == 5 * TERM


def test_the_first_line_of_all_claims_at_once() -> None:
    lease = standing()
    assert lease.due(0.0) == Beat(1, 0, "b", 7)
    assert lease.due(0.1) is None  # Not a second time while it is not known whose was stored.
    heard(lease, Beat(1, 0, "b", 7), 0.2)
    assert lease.role is Role.ACTIVE


def test_of_two_that_claim_a_term_the_one_in_the_log_writes() -> None:
    lease = standing()
    lease.due(0.0)
    heard(lease, Beat(1, 0, "a", 3), 0.1)
    assert lease.role is Role.STANDBY
    assert lease.due(0.2) is None


def test_a_line_takes_over_when_the_newest_beat_stood_still_and_not_before() -> None:
    lease = standing(OTHERS)
    assert after(lease, OTHERS, 0.99) is None
    assert after(lease, OTHERS, 1.0) == OWN_CLAIM


def test_a_beat_begins_the_wait_anew() -> None:
    lease = standing(OTHERS)
    newer = OTHERS._replace(number=13)
    assert after(lease, newer, 0.9) is None
    assert after(lease, newer, 1.89) is None
    assert after(lease, newer, 2.0) == OWN_CLAIM


def test_a_log_that_does_not_answer_lets_nobody_take_over() -> None:
    lease = standing(OTHERS)
    lease.missed(0.9)
    assert lease.due(5.0) is None
    assert after(lease, OTHERS, 5.0) is None
    # Who writes may have lost its way to the log too, and needs longer to come back.
    assert after(lease, OTHERS, 9.9) is None
    assert after(lease, OTHERS, 10.0) == OWN_CLAIM


def test_a_beat_after_an_outage_ends_the_longer_wait() -> None:
    lease = standing(OTHERS)
    lease.missed(0.9)
    newer = OTHERS._replace(number=13)
    assert after(lease, newer, 1.0) is None
    assert after(lease, newer, 2.0) == OWN_CLAIM


def test_a_line_that_lets_go_is_followed_at_once() -> None:
    lease = standing(OTHERS)
    heard(lease, OTHERS._replace(number=RELEASED), 0.1)
    assert lease.due(0.1) == OWN_CLAIM


def test_a_former_process_of_the_same_name_is_another_line() -> None:
    former = Beat(4, 12, "b", 6)
    lease = standing(former)
    assert lease.role is Role.STANDBY
    assert after(lease, former, 0.5) is None
    assert after(lease, former, 1.0) == OWN_CLAIM


def active() -> Lease:
    lease = standing(OTHERS)
    assert after(lease, OTHERS, 1.0) == OWN_CLAIM
    heard(lease, OWN_CLAIM, 1.1)
    assert lease.role is Role.ACTIVE
    return lease


def test_who_writes_beats_several_times_in_the_time_of_a_takeover() -> None:
    lease = active()
    assert lease.due(1.2) is None
    assert lease.due(1.25) == OWN_CLAIM._replace(number=1)
    assert lease.due(1.26) is None
    assert lease.due(1.5) == OWN_CLAIM._replace(number=2)


def test_who_was_taken_over_stands_by() -> None:
    lease = active()
    heard(lease, Beat(6, 0, "a", 3), 3.0)
    assert lease.role is Role.STANDBY
    assert not lease.may_write(3.0)
    assert lease.due(3.0) is None


@pytest.mark.parametrize("below", [OTHERS, None, OWN_CLAIM._replace(number=0)])
def test_a_log_that_lost_its_end_takes_nothing_from_who_writes(below: Beat | None) -> None:
    lease = active()
    for number in (1, 2):
        assert lease.due(1.0 + number) == OWN_CLAIM._replace(number=number)
        heard(lease, OWN_CLAIM._replace(number=number), 1.0 + number)
    heard(lease, below, 3.1)
    assert lease.role is Role.ACTIVE
    assert lease.due(3.2) is None
    assert lease.due(3.3) == OWN_CLAIM._replace(number=3)


def test_a_beat_of_a_line_that_was_held_up_does_not_bring_it_back() -> None:
    lease = active()
    heard(lease, OTHERS._replace(number=13), 1.2)
    assert lease.role is Role.ACTIVE


def test_after_a_pause_in_which_it_may_have_been_taken_over_a_line_asks_before_it_writes() -> None:
    lease = active()
    assert lease.may_write(2.0)
    assert not lease.may_write(2.1)
    lease.missed(2.1)  # The question of before the pause, or the first one after it.
    assert not lease.may_write(2.1)
    lease.missed(2.2)
    assert not lease.may_write(2.2)
    heard(lease, OWN_CLAIM, 2.3)
    assert lease.may_write(2.3)


def test_a_log_that_does_not_answer_takes_nothing_from_who_writes_and_goes_on_asking() -> None:
    lease = active()
    for tenth in range(20, 60, 5):
        lease.missed(tenth / 10)
        assert lease.may_write(tenth / 10)


def test_an_answer_to_what_was_asked_before_a_pause_says_nothing_of_the_pause() -> None:
    lease = active()
    lease.heard(OWN_CLAIM, 1.2, 9.0)
    assert not lease.may_write(9.0)
    lease = standing(OTHERS)
    lease.heard(OTHERS, 0.1, 9.0)  # Who writes may have beaten all the while.
    assert lease.due(9.0) is None
    heard(lease, OTHERS, 9.1)
    assert lease.due(9.1) == OWN_CLAIM


def test_a_claim_that_was_never_shown_is_made_again() -> None:
    lease = standing(OTHERS)
    assert after(lease, OTHERS, 1.0) == OWN_CLAIM
    assert after(lease, OTHERS, 1.9) is None
    assert after(lease, OTHERS, 2.1) == OWN_CLAIM


def test_who_stands_by_knows_whom_it_may_have_to_follow() -> None:
    assert not Lease("a", 1, TAKEOVER_S).stands_by
    assert standing(Beat(3, 5, "b", 2)).stands_by
    assert not standing(Beat(3, RELEASED, "b", 2)).stands_by
    assert not active().stands_by


def test_letting_go_is_a_beat_that_only_who_writes_has() -> None:
    assert standing(OTHERS).release() is None
    lease = active()
    assert lease.release() == OWN_CLAIM._replace(number=RELEASED)
    assert not lease.may_write(1.2)
    assert lease.release() is None
    heard(lease, OWN_CLAIM._replace(number=RELEASED), 1.3)
    assert lease.due(9.0) is None


@dataclass
class Process:
    """A line, what it has sent and the log has not stored yet, and what it asked."""

    lease: Lease
    sent: list[Beat] = field(default_factory=list)
    # When, and what the log had then.
    question: tuple[float, Beat | None] | None = None


class Lines(RuleBasedStateMachine):
    """Three lines and a log that keeps one beat at a place; they are held up at any moment."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.log: dict[int, Beat] = {}
        self.processes = [Process(Lease(name, 1, TAKEOVER_S)) for name in "abc"]

    def newest(self) -> Beat | None:
        return self.log[max(self.log)] if self.log else None

    @rule(which=st.integers(0, 2))
    def ask(self, which: int) -> None:
        self.processes[which].question = (self.now, self.newest())

    @rule(which=st.integers(0, 2))
    def hear(self, which: int) -> None:
        """It has its answer, however late, and sends what is due."""
        process = self.processes[which]
        if process.question is not None:
            asked, found = process.question
            process.question = None
            process.lease.heard(found, asked, self.now)
            if (beat := process.lease.due(self.now)) is not None:
                process.sent.append(beat)

    @rule(which=st.integers(0, 2))
    def unanswered(self, which: int) -> None:
        process = self.processes[which]
        asked, _ = process.question or (self.now, None)
        process.question = None
        process.lease.missed(asked)

    @rule(which=st.integers(0, 2))
    def store(self, which: int) -> None:
        """What it sent arrives, however late."""
        process = self.processes[which]
        for beat in process.sent:
            self.log.setdefault(beat.seq, beat)
        process.sent.clear()

    @rule(seconds=st.sampled_from([0.05, 0.2, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=st.integers(0, 2))
    def restart(self, which: int) -> None:
        """What it had sent may still arrive."""
        before = self.processes[which]
        lease = Lease("abc"[which], 1 + int(1000 * self.now) + len(self.log), TAKEOVER_S)
        self.processes[which] = Process(lease, before.sent)

    @rule(beats=st.integers(1, 3))
    def lose_end(self, beats: int) -> None:
        for seq in sorted(self.log)[-beats:]:
            del self.log[seq]

    @invariant()
    def of_those_who_know_the_newest_beat_one_writes(self) -> None:
        """At most one line both writes and has read the log since its newest beat was stored."""
        newest = self.newest()
        known = [
            process.lease
            for process in self.processes
            if process.lease.role is Role.ACTIVE
            and newest is not None
            and process.lease.newest is not None
            and process.lease.newest.term == newest.term
        ]
        assert len(known) <= 1

    @rule()
    def calm(self) -> None:
        """Once the log answers everybody and nothing is held up, exactly one line writes."""
        for _ in range(90):
            for which in range(3):
                self.store(which)
                self.ask(which)
                self.hear(which)
            self.now += 0.1
        for which in range(3):
            self.store(which)
            self.ask(which)
            self.hear(which)
        writers = [each for each in self.processes if each.lease.may_write(self.now)]
        assert len(writers) == 1


TestLines = Lines.TestCase
TestLines.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
