"""Several processes as one: what they tell each other, and what becomes of it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette

from services.gateway.testing import WAIT_S
from services.gateway.workers.channel import ChannelDown, WorkerChannel
from services.gateway.workers.health_http import (
    MergedMetrics,
    exported_families,
    failing_checks,
    merged_degradations,
    routes,
)


def registry(value: float) -> CollectorRegistry:
    found = CollectorRegistry()
    Gauge("md_open", "Open.", registry=found).set(value)
    Counter("md_sent", "Sent.", ("channel",), registry=found).labels("book").inc(value)
    seconds = Histogram("md_took_seconds", "Took.", registry=found, buckets=(1.0, 2.0))
    seconds.observe(value, {"trace_id": "abc"})
    return found


def wire(told: Any) -> Any:
    """As it comes out of the other end of a channel."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(told))


def test_metrics_of_several_processes_are_told_apart_and_keep_everything_else() -> None:
    own = CollectorRegistry()
    Counter("md_restarts", "Restarts.", registry=own)
    told = {str(n): wire(exported_families(registry(n + 0.5))) for n in range(2)}
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(MergedMetrics(told, own)).decode()
    for line in (
        'md_open{worker="0"} 0.5',
        'md_open{worker="1"} 1.5',
        'md_sent_total{channel="book",worker="1"} 1.5',
        "md_restarts_total 0.0",
        'md_took_seconds_bucket{le="+Inf",worker="1"} 1.0',
    ):
        assert line in text
    # One family for all, with its documentation once, and exemplars beside their buckets.
    assert text.count("# TYPE md_took_seconds histogram") == 1
    assert text.count('# {trace_id="abc"}') == 2


def test_a_report_says_why_it_is_not_ready() -> None:
    good = {"ok": True, "reason": None}
    assert failing_checks({"checks": {"broker": good}}) is None
    bad = {"broker": {"ok": False, "reason": "away"}, "serving": good}
    assert failing_checks({"checks": bad}) == "broker: away"
    reports = [
        {"degraded": {"archive": {"reason": "x", "since": 5}}},
        {"degraded": {"archive": {"reason": "y", "since": 3}}},
        {},
    ]
    assert merged_degradations(reports) == {"archive": {"reason": "y", "since": 3}}


async def test_both_ends_of_a_line_ask_and_answer_and_notice_the_end() -> None:
    ours, theirs = socket.socketpair()

    async def shout(what: Any) -> Any:
        return str(what).upper()

    async def double(what: Any) -> Any:
        return what * 2

    async def never(what: Any) -> Any:
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        left, right = WorkerChannel(ours, shout), WorkerChannel(theirs, double)
        ends = [group.create_task(left.run()), group.create_task(right.run())]
        while True:
            try:
                assert await right.ask("a") == "A"
                break
            except ChannelDown:
                # Not running yet.
                await asyncio.sleep(0)
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(left.ask(n)) for n in range(50)]
            shouted = asking.create_task(right.ask("b" * 300_000))
        assert [one.result() for one in asked] == [*range(0, 100, 2)]
        assert shouted.result() == "B" * 300_000
        # The other process dies in the middle of an answer.
        right._answer = never
        failing = group.create_task(_failed(left))
        await asyncio.sleep(0)
        theirs.shutdown(socket.SHUT_RDWR)
        assert "gone" in await failing
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait(ends)
        with pytest.raises(ChannelDown):
            await left.ask("again")


async def _failed(channel: WorkerChannel) -> str:
    with pytest.raises(ChannelDown) as down:
        await channel.ask("anybody?")
    return str(down.value)


@pytest.mark.parametrize("path", ["/readyz", "/startupz"])
async def test_a_process_that_gets_no_answer_reports_it_in_the_form_of_a_report(path: str) -> None:
    async def nobody(_asked: Any) -> Any:
        raise ChannelDown("no answer within 3 s")

    app = httpx.ASGITransport(Starlette(routes=routes(nobody, dict)))
    async with httpx.AsyncClient(transport=app, base_url="http://gateway") as http:
        answer = await http.get(path)
    assert answer.status_code == 503
    report = answer.json()
    assert (report["ready"], report["started"], report["pending"]) == (False, False, ["supervisor"])
    check = report["checks"]["supervisor"]
    assert (check["ok"], check["reason"]) == (False, "no answer within 3 s")
