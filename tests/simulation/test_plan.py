"""A plan follows from its seed, and what fails is made as small as it can be."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.nats_part import CLUSTER_FAULTS, ClusterFault
from tests.simulation.plan import Kill, Plan, plan_of, shrunk


def test_a_seed_is_one_plan_and_seeds_differ() -> None:
    assert plan_of(5) == plan_of(5)
    assert len({plan_of(seed).faults for seed in range(50)}) == 50


def test_all_faults_are_over_when_the_plan_is() -> None:
    for seed in range(200):
        plan = plan_of(seed)
        assert len(plan.faults) == 5 + (CLUSTER_FAULTS if plan.servers > 1 else 0)
        assert all(one.at_s + getattr(one, "for_s", 0.0) <= plan.seconds for one in plan.faults)


@pytest.mark.parametrize(("broker", "kinds", "least"), [("nats", 6, 50), ("redis", 9, 30)])
def test_every_kind_of_fault_comes_about_often(broker: str, kinds: int, least: int) -> None:
    plans = [plan for plan in map(plan_of, range(200)) if plan.broker == broker]
    assert 70 < len(plans) < 130
    names = Counter(
        type(fault).__name__
        for plan in plans
        for fault in plan.faults
        if not isinstance(fault, ClusterFault)
    )
    assert len(names) == kinds
    assert min(names.values()) > least


def test_every_other_nats_is_a_cluster_with_faults_of_its_own() -> None:
    plans = [plan for plan in map(plan_of, range(200)) if plan.broker == "nats"]
    clusters = [plan for plan in plans if plan.servers == 3]
    assert 0.3 < len(clusters) / len(plans) < 0.7
    names = Counter(
        type(fault).__name__
        for plan in plans
        for fault in plan.faults
        if isinstance(fault, ClusterFault)
    )
    assert names.total() == CLUSTER_FAULTS * len(clusters)
    assert len(names) == 4


def test_faults_meet_the_broker_that_is_there() -> None:
    for plan in map(plan_of, range(200)):
        other = "redis" if plan.broker == "nats" else "nats"
        told = [
            name
            for fault in plan.faults
            for name in (getattr(fault, "part", ""), *getattr(fault, "ends", ()))
        ]
        assert other not in told
        assert plan.broker == "nats" or not any("nats" in name for name in told)


def test_what_fails_is_shrunk_to_what_it_needs() -> None:
    plan = next(one for one in map(plan_of, range(100)) if len(one.products) == 3)
    needed = plan.numbers[3]

    def fails(tried: Plan) -> bool:
        return needed in tried.numbers

    small = shrunk(plan, fails)
    assert small.numbers == (needed,)
    assert small.faults == (plan.faults[3],)
    assert small.products == plan.products[:1]
    assert plan_of(plan.seed).only(small.numbers, 1) == small


def test_a_kill_can_take_its_machine_with_it() -> None:
    kills = [one for seed in range(200) for one in plan_of(seed).faults if isinstance(one, Kill)]
    assert {one.unplugged for one in kills} == {True, False}
