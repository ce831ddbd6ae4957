"""`mdf watch` as a process, on a real gateway, in a pipe and in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from io import StringIO
from pathlib import Path

from market_data_fanout_client.chain import Verdict
from rich.console import Console

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, eventually
from tools.latency import LatencyHistogram
from tools.watch.board import Board
from tools.watch.render import render

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "tools.cli", "watch")


def book_board() -> Board:
    board = Board(("BTC-USD",), ("book",), ladder=3)
    state = {"bids": [["99", "1.5"], ["98", "2"]], "asks": [["101", "7"], ["102", "1"]]}
    names = {"venue": "coinbase", "channel": "book", "product": "BTC-USD"}
    record = {**names, "epoch": 1, "seq": 4, "state": state}
    board.take({"type": "snapshot", "snapshot": record}, Verdict.APPLY, 0.0)
    return board


def picture(board: Board, height: int = 40) -> str:
    console = Console(width=100, file=StringIO())
    console.print(render(board, 0.0, title="a gateway", width=100, height=height))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_book_is_shown_level_by_level_where_there_is_room_for_it() -> None:
    board = book_board()
    text = picture(board)
    assert "BTC-USD book, verified" in text
    for cell in ("99", "1.5", "98", "101", "7", "102"):
        assert cell in text
    assert "book, verified" not in picture(board, height=12)


def test_the_percentiles_of_latency_are_shown() -> None:
    board = book_board()
    board.latency = LatencyHistogram()
    for n in range(1, 1001):
        board.latency.add(n * 100.0)
    assert "latency ms: p50 5" in picture(board)


async def test_in_a_pipe_it_prints_json_without_colour_and_records_the_same(tmp_path: Path) -> None:
    recorded = tmp_path / "session.ndjson"
    async with bench(MemoryBroker()) as gateway:
        market = gateway.market()
        await market.ticks(5)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--url", f"ws://127.0.0.1:{gateway.port}/ws", "--products", "BTC-USD"),
            *("--from-seq", "0", "--record", str(recorded)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        printed: list[str] = []
        async with asyncio.timeout(30):
            while sum('"type":"incr"' in line for line in printed) < 5:
                printed.append((await process.stdout.readline()).decode())
        process.send_signal(signal.SIGINT)
        rest, _ = await process.communicate()
        assert process.returncode == 0
    printed += rest.decode().splitlines(keepends=True)
    assert all(json.loads(line)["type"] for line in printed)
    assert recorded.read_text() == "".join(printed)


async def test_ctrl_c_in_a_terminal_leaves_the_last_picture_and_status_0() -> None:
    async with bench(MemoryBroker()) as gateway:
        book = gateway.market(channel="book")
        await book.publish(book.reset({"bids": [["64000.00", "1"]], "asks": [["64001.00", "1"]]}))
        here, there = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--url", f"ws://127.0.0.1:{gateway.port}/ws", "--products", "BTC-USD"),
            *("--channel", "book"),
            cwd=ROOT,
            stdin=there,
            stdout=there,
            stderr=there,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        )
        os.close(there)
        os.set_blocking(here, False)
        shown = bytearray()

        def read() -> bool:
            try:
                shown.extend(os.read(here, 65536))
            except OSError:
                # Nothing to read now; at its end the terminal is gone (EIO).
                return False
            return True

        def drawn() -> bool:
            read()
            return b"verified" in shown and b"64001.00" in shown

        await eventually(drawn)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        while read():
            pass
        os.close(here)
    assert b"Traceback" not in shown
    # The cursor is shown again.
    assert shown.rstrip().endswith(b"\x1b[?25h")
