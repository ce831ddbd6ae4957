"""Children of the stack, with the simulated exchange as the child."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.embedded import ChildDied, free_port
from tools.stack.process import Process


def exchange(folder: Path, *arguments: str) -> Process:
    port = free_port()
    return Process(
        "exchange",
        "tools.simulator",
        port=port,
        log_dir=folder,
        ready_path="/healthz",
        arguments=["--port", str(port), *arguments],
        environment=lambda _port: os.environ,
    )


async def test_a_process_comes_back_on_its_port(tmp_path: Path) -> None:
    process = exchange(tmp_path)
    await process.start()
    port, first = process.port, process.pid
    await process.kill()
    assert not process.is_running()
    assert process.died().status == -9
    await process.start()
    assert process.port == port
    assert process.pid != first
    await process.stop()
    assert await process.wait() == 0


async def test_a_process_that_ends_at_once_says_why(tmp_path: Path) -> None:
    process = exchange(tmp_path, "--rate", "none")
    with pytest.raises(ChildDied, match="exchange ended with status 2") as died:
        await process.start()
    assert "Invalid value for '--rate'" in died.value.log_tail
    assert died.value.log_tail in str(died.value)
    assert died.value.log_file == tmp_path / "exchange.log"


async def test_a_process_that_was_never_started_needs_no_stopping(tmp_path: Path) -> None:
    process = exchange(tmp_path)
    await process.stop()
    await process.kill()
    assert process.pid is None
    with pytest.raises(ChildDied):
        await process.wait()
