"""Both SDKs keep the rule, and clients that do not are found out."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from market_data_conformance.node import WITHOUT_NODE, find_node
from market_data_conformance.play import Failed, Player, play
from market_data_conformance.script import Transcript, difference, transcripts

FOLDER = Path(__file__).resolve().parents[1]
CASES = transcripts()
AT_ONCE = 10


async def failures(command: str, cases: list[Transcript]) -> dict[str, str]:
    """Why each failing case failed, by its name."""
    found: dict[str, str] = {}
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(case: Transcript) -> None:
        async with turns:
            why = await play(case, command)
        if why is not None:
            found[case.name] = why

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case))
    return found


async def test_the_python_sdk_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent / "python" / "src"))
    driver = FOLDER / "drivers" / "python_sdk.py"
    assert await failures(f"{sys.executable} {driver}", CASES) == {}


@pytest.mark.skipif(find_node() is None, reason=WITHOUT_NODE)
async def test_the_javascript_sdk_passes() -> None:
    node = find_node()
    assert node is not None
    assert await failures(f"{' '.join(node)} {FOLDER / 'drivers' / 'js_sdk.mjs'}", CASES) == {}


@pytest.mark.parametrize("late_s", [0.0, 0.2])
async def test_what_comes_after_a_silence_belongs_to_the_next_step(late_s: float) -> None:
    """Though the player woke up long after the silence was over."""
    steps: list[dict[str, Any]] = [{"nothing_ms": 100}, {"command": {"type": "resync"}}]
    player = Player(Transcript("silence", "", "ticker", steps))
    player.commands.put_nowait((asyncio.get_running_loop().time() + late_s, {"type": "resync"}))
    if late_s:
        await player.play()
        assert player.commands.empty()
    else:
        with pytest.raises(Failed, match="expected nothing"):
            await player.play()


async def test_a_client_that_believes_everything_fails_where_it_should(tmp_path: Path) -> None:
    driver = tmp_path / "gullible.py"
    driver.write_text(
        """
import json, os
from websockets.sync.client import connect
product, channel = os.environ["PRODUCT"], os.environ["CHANNEL"]
with connect(os.environ["URL"]) as socket:
    socket.send(json.dumps({"type": "subscribe", "products": [product], "channel": channel}))
    for frame in socket:
        message = json.loads(frame)
        for name in ("tick", "snapshot"):
            if name in message:
                print(json.dumps({"event": name, "seq": message[name]["seq"]}), flush=True)
"""
    )
    chosen = [case for case in CASES if case.name in ("in_order", "duplicates")]
    found = await failures(f"{sys.executable} {driver}", chosen)
    assert set(found) == {"duplicates"}
    assert "handed out" in found["duplicates"] or "sent" in found["duplicates"]


@pytest.mark.parametrize(
    ("expected", "found", "differs"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1}, {"a": 2}, True),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": 1}, True),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, True),
    ],
)
def test_only_what_is_named_is_compared(expected: object, found: object, differs: bool) -> None:
    assert isinstance(expected, dict)
    assert isinstance(found, dict)
    assert (difference(expected, found) is not None) == differs
