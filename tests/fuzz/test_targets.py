"""A bounded part of the fuzzing in every run: the same inputs each time, and what they cost."""

from __future__ import annotations

import os
from functools import partial
from random import Random

import pytest

from tests.fuzz.mutation import mutated, stretched
from tests.fuzz.target import load, names
from tests.fuzz.work import work_of

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
MOST = 4096
SHORT = 512
# Who writes the environment has the process anyway.
TRUSTED = {"settings"}
every_target = pytest.mark.parametrize("name", names())


@every_target
def test_nothing_but_the_refusal_that_is_documented_comes_of_any_input(name: str) -> None:
    target, random = load(name), Random(name)
    for seed in target.seeds:
        target.check(seed)
    for number in range(INPUTS):
        data = target.seeds[number % len(target.seeds)]
        for _ in range(random.choice((1, 1, 2, 5))):
            data = mutated(data, target.seeds, random, MOST)
        try:
            target.check(data)
        except Exception as error:
            error.add_note(f"{name} of {data!r}")
            raise


@pytest.mark.parametrize("name", sorted({*names()} - TRUSTED))
def test_work_and_memory_grow_with_the_input_and_no_faster(name: str) -> None:
    """Four times as much may take some more than four times as long; a square would be sixteen."""
    target = load(name)
    for seed in target.seeds:
        # What is made once, by the first call, is not the input's.
        target.check(seed)
        for short, long in zip(stretched(seed, SHORT), stretched(seed, 4 * SHORT), strict=True):
            target.check(long)
            less, more = (work_of(partial(target.check, given)) for given in (short, long))
            assert more.steps <= 6 * less.steps + 2000, (seed, short[:80])
            assert more.peak_bytes <= 200 * len(long) + 2**20, (seed, short[:80])
