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

from market_data_conformance.proxy import SlowProxy
from market_data_fanout_client import Freshness
from market_data_fanout_client.chain import Verdict
from rich.console import Console

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, eventually
from tools.latency import LatencyHistogram
from tools.subscriber import Subscriber, Want
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
    board.freshness = lambda _channel, _product: Freshness("live", 1, None, "live", "full", 0)
    board.judge()
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


def test_a_book_that_is_not_of_now_is_not_called_verified() -> None:
    board = book_board()
    board.freshness = lambda _channel, _product: Freshness("offline", 1, None, "live", "full", 0)
    board.judge()
    text = picture(board)
    assert "BTC-USD book, offline, as of" in text
    assert "verified" not in text


async def test_a_dead_line_is_given_up_and_what_came_over_it_is_offline() -> None:
    states: list[str] = []
    async with (
        bench(MemoryBroker(), ws_heartbeat_ms=200) as gateway,
        SlowProxy(gateway.port) as line,
        asyncio.TaskGroup() as group,
    ):
        await gateway.market().ticks(3)
        wants = [Want("ticker", ("BTC-USD",))]
        url = f"ws://127.0.0.1:{line.port}/ws"
        subscriber = Subscriber(url, wants, on_connection=states.append)
        running = group.create_task(subscriber.run())
        await eventually(lambda: subscriber.freshness("ticker", "BTC-USD").fresh)
        line.dead = True
        await eventually(lambda: subscriber.freshness("ticker", "BTC-USD").state == "offline")
        await eventually(lambda: any("nothing was heard for 3 s" in state for state in states))
        line.dead = False
        await eventually(lambda: subscriber.freshness("ticker", "BTC-USD").fresh)
        running.cancel()


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


async def ends(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_it_ends_with_a_word_where_there_is_nothing_to_watch() -> None:
    async with bench(MemoryBroker()) as gateway:
        await gateway.market().ticks(1)
        url = f"ws://127.0.0.1:{gateway.port}"
        status, said = await ends("--url", f"{url}/ws", "--products", "NO-SUCH", "--json")
        assert status == 1
        assert "Error: coinbase:ticker:NO-SUCH: unknown_product" in said
        status, said = await ends("--url", f"{url}/nowhere")
        assert status == 1
        assert "HTTP 404" in said


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
