"""The `mdf` command as typed in a shell."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from websockets.asyncio.server import ServerConnection, serve

from tools.cli import main

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env=env, prog_name="mdf")
    return result.exit_code, result.output


def test_help_lists_every_command_and_each_explains_itself() -> None:
    status, text = run("--help")
    assert status == 0
    names = [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line]
    assert {"stack", "watch", "simulate", "doctor"} <= set(names)
    for name in names:
        status, text = run(name, "--help")
        assert status == 0
        assert text.startswith(f"Usage: mdf {name}")


def test_an_unknown_command_is_refused() -> None:
    status, text = run("brew")
    assert status == 2
    assert "No such command 'brew'" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "replay"], "needs --capture"),
        (["--capture", __file__], "goes with --upstream replay"),
        (["--gap", "--upstream", "coinbase"], "needs the simulated exchange"),
        (["--products", "BTC USD"], "cannot be part of a subject"),
    ],
)
def test_options_that_do_not_go_together_are_explained(arguments: list[str], words: str) -> None:
    status, text = run("stack", *arguments)
    assert status == 2
    assert words in " ".join(text.split())


def test_options_come_from_the_environment() -> None:
    status, text = run("stack", env={"UPSTREAM": "replay"})
    assert status == 2
    assert "needs --capture" in text
    status, text = run("watch", env={"CHANNEL": "candles"})
    assert status == 2
    assert "'candles' is none of" in text


async def _endless(socket: ServerConnection) -> None:
    await socket.recv()
    number = 0
    while True:
        number += 1
        await socket.send(json.dumps({"type": "hb", "server_time": number, "heads": {}}))


async def _watch(port: int, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tools.cli", "watch", "--url", f"ws://127.0.0.1:{port}/ws", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


async def test_watch_prints_one_message_a_line_and_ends_quietly_when_its_reader_is_gone() -> None:
    async with serve(_endless, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        watching = await _watch(port, "--json")
        assert watching.stdout is not None
        assert watching.stderr is not None
        for number in (1, 2, 3):
            message = json.loads(await watching.stdout.readline())
            assert (message["type"], message["server_time"]) == ("hb", number)
        # What `| head -3` does.
        watching.stdout._transport.close()  # type: ignore[attr-defined]  # no public way to close a read pipe
        assert await watching.wait() == 0
        assert await watching.stderr.read() == b""


async def test_watch_ends_cleanly_on_ctrl_c() -> None:
    async with serve(_endless, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        watching = await _watch(port, "--json")
        assert watching.stdout is not None
        await watching.stdout.readline()
        watching.send_signal(2)
        _, errors = await watching.communicate()
        assert watching.returncode == 0
        assert errors == b""
