"""A broker's background work that ends: closed by somebody, or by an error."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import BrokerClosed, BrokerFailed
from services.common.stream.memory.broker import MemoryBroker
from services.common.stream.nats.wire import Frames
from services.common.stream.worker import Subscription, Worker, wait_for


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


async def test_its_owner_is_told_how_it_ended() -> None:
    told: list[tuple[str, bool, bool]] = []

    def tell(worker: Worker) -> None:
        told.append((worker.what, worker.closed, worker.failed))

    closed, broken, late = Worker("closed"), Worker("broken"), Worker("late")
    closed.start(forever())
    broken.start(raising(ValueError("odd")))
    late.fail(ValueError("odd"))
    for worker in (closed, broken, late):
        worker.when_ended(tell)
    assert told == [("late", False, True)]
    await broken.changed.wait()
    for worker in (closed, broken, closed):
        await worker.aclose()
    assert told[1:] == [
        ("broken", False, True),
        ("closed", True, False),
        ("broken", True, True),
    ]


class _Part(Worker):
    """One that something befalls while it is closed."""

    def __init__(self, what: str, closings: list[str]) -> None:
        super().__init__(what)
        self._closings = closings

    async def aclose(self) -> None:
        await super().aclose()
        self._closings.append(self.what)
        raise OSError(self.what)


class _Owner(MemoryBroker):
    def add(self, worker: Worker) -> None:
        self._own(worker)

    async def join(self, subscription: Subscription) -> None:
        await self._joined(subscription)

    def owned(self) -> list[str]:
        return [worker.what for worker in self._workers]


async def test_a_broker_closes_all_that_it_owns_the_newest_first() -> None:
    closings: list[str] = []
    broker = _Owner()
    for what in ("link", "publisher", "group"):
        broker.add(_Part(what, closings))
    with pytest.raises(OSError, match="link"):
        await broker.aclose()
    assert closings == ["group", "publisher", "link"]


async def test_a_broker_owns_what_failed_until_it_is_closed_and_nothing_closed() -> None:
    broker = _Owner()
    closed, broken = Worker("closed"), Worker("broken")
    broker.add(closed)
    broker.add(broken)
    await closed.aclose()
    broken.fail(ValueError("odd"))
    assert broker.owned() == ["broken"]
    await broken.aclose()
    assert broker.owned() == []


async def test_a_subscription_that_nobody_waits_for_any_more_is_closed() -> None:
    broker = _Owner()
    worker = Subscription("group")
    worker.start(forever())
    joining = asyncio.ensure_future(broker.join(worker))
    await asyncio.sleep(0)
    assert broker.owned() == ["group"]
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert worker.closed
    assert broker.owned() == []


async def test_what_is_waited_for_came_or_did_not_in_time() -> None:
    event = asyncio.Event()
    assert not await wait_for(event, 0.001)
    event.set()
    assert await wait_for(event, None)
    assert await wait_for(event, 0.001)


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
