"""Each book has its turn in time, the busiest first, and those suspected at once."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.repair.audit_turns import AuditTurns, Suspicions

TURN_S = 300.0


@given(rates=st.lists(st.integers(0, 500), min_size=1, max_size=25), seed=st.integers(0, 2**32))
def test_each_product_has_its_turn_within_the_time_however_busy_others_are(
    rates: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    turns = AuditTurns(TURN_S, 30.0)
    messages = {f"P{number}": 0 for number in range(len(rates))}
    judged_at = dict.fromkeys(messages, 0.0)
    now = 0.0
    while now < 4 * TURN_S:
        now += turns.pause_s(len(messages))
        for name, rate in zip(messages, rates, strict=True):
            messages[name] += rng.randint(0, rate)
        chosen = turns.next(messages, ())
        assert chosen is not None
        assert now - judged_at[chosen] <= TURN_S
        judged_at[chosen] = now
        turns.judged(chosen, right=True)
        assert all(now - at <= TURN_S for at in judged_at.values())


def test_the_busiest_comes_first() -> None:
    turns = AuditTurns(TURN_S, 30.0)
    messages = {"A": 1, "B": 50, "C": 9}
    order = []
    for _ in range(3):
        chosen = turns.next(messages, ())
        assert chosen is not None
        order.append(chosen)
        turns.judged(chosen, right=True)
    assert order == ["B", "C", "A"]
    assert turns.next({"A": 2, "B": 50, "C": 500}, ()) == "C"


def test_one_that_came_to_nothing_has_another_turn_behind_the_others() -> None:
    turns = AuditTurns(TURN_S, 30.0)
    messages = {"A": 9, "B": 1}
    assert turns.next(messages, ()) == "A"
    assert turns.next(messages, ()) == "B"
    turns.judged("B", right=True)
    assert turns.next(messages, ()) == "A"
    assert turns.next(messages, ()) == "A"
    assert turns.next(messages, ()) in ("A", "B"), "a new round after three attempts"


def test_a_book_found_wrong_makes_one_round_quick() -> None:
    turns = AuditTurns(TURN_S, 30.0)
    messages = {"A": 3, "B": 2, "C": 1}
    pauses = []
    for wrong in (False, False, True, False, False, False, False):
        pauses.append(turns.pause_s(len(messages)))
        chosen = turns.next(messages, ())
        assert chosen is not None
        turns.judged(chosen, right=not wrong)
    assert pauses == [30.0, 30.0, 30.0, 6.0, 6.0, 6.0, 30.0]


def test_what_is_under_way_is_not_begun_again_and_few_products_do_not_wait_for_ever() -> None:
    turns = AuditTurns(TURN_S, 30.0)
    assert turns.next({"A": 1}, {"A"}) is None
    assert turns.pause_s(1) == 30.0
    assert turns.pause_s(100) < TURN_S / 200 + 0.001
    assert turns.pause_s(0) == 30.0


def test_a_suspicion_stands_until_an_audit_has_judged_it() -> None:
    suspicions = Suspicions()
    assert suspicions.raised("A", 0.0)
    assert not suspicions.raised("A", 1.0)
    assert suspicions.due(1.0) == ["A"]
    suspicions.audited("A", 2.0, right=False, conclusive=False)
    assert suspicions.due(2.0) == []
    assert suspicions.due(4.0) == ["A"]
    suspicions.audited("A", 5.0, right=False, conclusive=True)
    assert suspicions.due(1e9) == []
    assert suspicions.raised("A", 5.0), "wrong once, suspected again at once"


def test_a_book_that_was_right_is_left_alone_for_longer_each_time() -> None:
    suspicions = Suspicions()
    now, pauses = 0.0, []
    for _ in range(8):
        assert suspicions.raised("A", now)
        suspicions.audited("A", now, right=True, conclusive=True)
        began = now
        while not suspicions.raised("A", now):
            now += 1.0
        suspicions.audited("A", now, right=True, conclusive=True)
        pauses.append(now - began)
        now = began + 10_000.0
    assert pauses[0] == 30.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 600.0
