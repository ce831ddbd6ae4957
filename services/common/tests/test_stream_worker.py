"""A broker's background work that ends: closed by somebody, or by an error."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import BrokerClosed, BrokerFailed
from services.common.stream.nats.wire import Frames
from services.common.stream.worker import Worker


async def forever() -> None:
    await asyncio.Event().wait()


async def raising(error: Exception) -> None:
    raise error


async def returning() -> None:
    return


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("p"), OSError("disk")])
async def test_an_error_of_its_task_is_told_with_its_cause(error: Exception) -> None:
    worker = Worker("part")
    worker.start(raising(error))
    await worker.changed.wait()
    with pytest.raises(BrokerFailed, match=r"^part failed: ") as failed:
        worker.check_open()
    assert failed.value.__cause__ is error
    assert failed.value.what == "part"
    assert failed.value.reason == str(error)
    assert worker.failed


async def test_a_task_that_returns_or_is_cancelled_by_others_was_not_closed() -> None:
    worker = Worker("part")
    worker.start(returning())
    await worker.changed.wait()
    with pytest.raises(BrokerFailed):
        worker.check_open()
    other = Worker("other")
    other.start(forever())
    assert other._task is not None
    other._task.cancel()
    await other.changed.wait()
    with pytest.raises(BrokerFailed):
        other.check_open()


async def test_closed_is_who_was_closed_before_or_after_it_broke() -> None:
    worker = Worker("part")
    worker.start(forever())
    worker.check_open()
    await worker.aclose()
    await worker.aclose()
    with pytest.raises(BrokerClosed):
        worker.check_open()
    assert not worker.failed
    broken = Worker("broken")
    broken.start(forever())
    broken.fail(ValueError("the first"))
    broken.fail(ValueError("the second"))
    with pytest.raises(BrokerFailed, match="the first"):
        broken.check_open()
    await broken.aclose()
    with pytest.raises(BrokerClosed):
        broken.check_open()
    assert broken.failed


async def test_a_part_of_what_was_closed_is_closed_too() -> None:
    worker = Worker("part")
    worker.start(raising(BrokerClosed("link")))
    await worker.changed.wait()
    with pytest.raises(BrokerClosed):
        worker.check_open()


def test_a_handler_that_raises_ends_its_subscription_and_no_other() -> None:
    frames = Frames()
    seen: list[str] = []
    told: list[Exception] = []

    def broken(_subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        raise ValueError("odd")

    frames.handlers["1"] = broken
    frames.failed["1"] = told.append
    frames.handlers["2"] = lambda subject, *_: seen.append(subject)
    lines = frames.feed(
        b"MSG a 1 2\r\nhi\r\nMSG b 2 2\r\nhi\r\nHMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        b"MSG c.\xff\xfe 2 0\r\n\r\nPING\r\n"
    )
    assert lines == [b"PING"]
    assert seen == ["b", "c.\ufffd\ufffd"]
    assert [str(error) for error in told] == ["odd"]


def test_a_run_handler_that_raises_ends_its_subscription_and_no_other() -> None:
    frames = Frames()
    seen: list[str] = []
    told: list[Exception] = []

    def broken(_buffer: bytes, _at: int) -> int:
        raise KeyError("odd")

    frames.handlers["1"] = frames.handlers["2"] = lambda subject, *_: seen.append(subject)
    frames.runs["1"] = broken
    frames.failed["1"] = told.append
    assert frames.feed(b"MSG a 1 2\r\nhi\r\nMSG a 1 2\r\nhi\r\nMSG b 2 2\r\nhi\r\n") == []
    assert seen == ["b"]
    assert len(told) == 1
