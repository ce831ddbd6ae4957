"""`mdf stack` as its user meets it: a process, its output, its exit status, what it leaves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from services.common.testing.waiting import eventually
from tests.stack_process import stack_process

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_data_flows_end_to_end_and_no_chain_breaks(broker: str, tmp_path: Path) -> None:
    async with stack_process(
        folder=tmp_path, environment={"DURATION": "8", "BROKER_KIND": broker}
    ) as stack:
        status = await stack.finish()
        assert status == 0, stack.output
        summary = stack.summary()
        assert summary["ok"]
        assert summary["ticks"] > 0
        assert (summary["books_equal"], summary["trades_equal"]) == (True, True)
        assert summary["clients"] == 1
        assert (summary["chain_breaks"], summary["unexplained_breaks"]) == (0, 0)
        assert all(summary["ticks_by_channel"].values())
        assert summary["broker"] == broker
        for name in ("ingestor", "normalizer", "snapshotter", "gateway", "exchange"):
            assert any(line.lstrip().startswith(name) for line in stack.lines)
        assert "web board" in stack.output
        assert stack.descendants() == {}


async def test_a_gap_is_found_announced_and_healed(tmp_path: Path) -> None:
    async with stack_process("--gap", folder=tmp_path, environment={"DURATION": "15"}) as stack:
        status = await stack.finish()
        assert status == 0, stack.output
        summary = stack.summary()
        assert summary["gaps_detected"] >= 1
        assert summary["gaps_healed"] == summary["gaps_detected"]
        assert summary["unexplained_breaks"] == 0
        assert (summary["books_equal"], summary["trades_equal"]) == (True, True)
        assert "is resyncing" in stack.output
        assert "is live" in stack.output


async def test_a_wrong_book_is_no_success_though_no_chain_broke(tmp_path: Path) -> None:
    environment = {
        "DURATION": "8",
        # Nothing in the feed tells that these sizes are wrong, and nobody asks REST.
        "SIM_FAULTS": json.dumps(
            {"odd": {"wrong_size": {"probability": 1, "products": ["ETH-USD"]}}}
        ),
        "BOOK_AUDIT_PERIOD_MS": "0",
    }
    async with stack_process(folder=tmp_path, environment=environment) as stack:
        status = await stack.finish()
        summary = stack.summary()
        assert status == 1, stack.output
        assert not summary["ok"]
        assert (summary["books_equal"], summary["trades_equal"]) == (False, True)
        assert any("the book of ETH-USD" in each for each in summary["problems"])


async def test_a_service_that_dies_is_named_and_ends_the_stack(tmp_path: Path) -> None:
    async with stack_process(folder=tmp_path) as stack:
        assert await stack.read_until(lambda line: "Ctrl-C ends it" in line), stack.output
        os.kill(stack.pid_of("services.normalizer"), signal.SIGKILL)
        status = await stack.finish()
        assert status == 1
        assert "normalizer ended with signal 9" in stack.output
        assert "its last lines:" in stack.output
        assert not stack.summary()["ok"]
        assert stack.descendants() == {}


async def test_ctrl_c_ends_it_in_order_with_the_summary(tmp_path: Path) -> None:
    async with stack_process(folder=tmp_path) as stack:
        assert await stack.read_until(lambda line: "ticks flow on" in line), stack.output
        stack.interrupt()
        status = await stack.finish()
        assert status == 0, stack.output
        assert stack.summary()["ticks"] > 0
        assert stack.descendants() == {}


async def test_ctrl_c_while_starting_leaves_nothing_behind(tmp_path: Path) -> None:
    async with stack_process(folder=tmp_path) as stack:
        assert await stack.read_until(lambda line: "nats" in line and "JetStream" in line)
        stack.interrupt()
        assert await stack.finish() == 130, stack.output
        assert not stack.summary()["ok"]
        assert stack.descendants() == {}


async def test_nothing_outlives_a_killed_stack(tmp_path: Path) -> None:
    async with stack_process(folder=tmp_path) as stack:
        assert await stack.read_until(lambda line: line.lstrip().startswith("exchange"))
        assert stack.descendants()
        stack.process.kill()
        # The output's end comes when the last process that holds it is gone.
        await stack.finish()
        await eventually(lambda: not stack.descendants())
