"""How tests wait."""

from __future__ import annotations

import pytest

from services.common.testing.waiting import eventually


async def test_it_asks_until_the_answer_is_yes_whether_or_not_that_has_to_be_awaited() -> None:
    answers = iter((False, KeyError, True, False, True))

    def said() -> bool:
        answer = next(answers)
        if answer is KeyError:
            raise KeyError
        return bool(answer)

    async def awaited() -> bool:
        return said()

    await eventually(said, despite=KeyError)
    await eventually(awaited)
    assert next(answers, None) is None


async def test_what_did_not_come_about_is_named() -> None:
    with pytest.raises(AssertionError, match=r"the end did not come about within 0\.02 s"):
        await eventually(lambda: False, "the end", 0.02)
