"""`mdf watch`: the board in a terminal, one JSON message a line in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
from market_data_fanout_client import Refused
from market_data_fanout_client.chain import Verdict
from rich.console import Console, RenderableType
from rich.live import Live

from services.common.subjects import CHANNELS
from tools.options import max_rate_option, mode_option, option, products_option, url_option
from tools.subscriber import Message, Subscriber, Want
from tools.watch.board import Board
from tools.watch.render import render

_FRAMES_A_SECOND = 5
_CONNECT_S = 30.0
Keep = Callable[[Message], object]


@click.command(context_settings={"show_default": True})
@url_option
@products_option("BTC-USD,ETH-USD")
@option("--channel", default="ticker", text="ticker, trades or book; several with commas.")
@option(
    "--from-seq",
    type=click.IntRange(0),
    text="I hold this seq: send everything after it; 0 is the beginning.",
)
@mode_option
@max_rate_option
@option("--api-key", text="Sent as X-API-Key.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one message a line instead of a board."
)
@click.option(
    "--levels",
    type=click.IntRange(0),
    default=10,
    help="Levels a side of the first product's book, with the channel book; 0 shows none.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append every message to this file, one JSON object a line.",
)
def watch(
    url: str,
    products: tuple[str, ...],
    channel: str,
    from_seq: int | None,
    mode: str | None,
    max_rate: float | None,
    api_key: str | None,
    as_json: bool,
    levels: int,
    record: Path | None,
) -> None:
    """Show a running gateway's ticks on a board, or as JSON lines."""
    channels = tuple(part.strip() for part in channel.split(",") if part.strip())
    for name in channels:
        if name not in CHANNELS:
            raise click.BadParameter(
                f"{name!r} is none of {', '.join(CHANNELS)}", param_hint="--channel"
            )
    wants = [
        Want(name, products, from_seq=from_seq, mode=mode, max_rate=max_rate) for name in channels
    ]
    try:
        with _recording(record) as keep:
            if as_json or not sys.stdout.isatty():
                asyncio.run(_lines(url, wants, api_key, keep))
            else:
                board = Board(products, channels, ladder=levels)
                asyncio.run(_board(url, wants, api_key, board, keep))
    except (Refused, NothingToWatch) as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _recording(path: Path | None) -> Iterator[Keep]:
    """What takes every message's line; without a path it does nothing."""
    if path is None:
        yield lambda _message: None
        return
    try:
        # Buffered by lines: after a crash the file ends with a whole message.
        file = path.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"--record {path}: {error.strerror}") from error
    with file:
        yield lambda message: file.write(msgspec.json.encode(message).decode() + "\n")


class NothingToWatch(Exception):
    """There is no gateway, or it serves none of the streams."""


async def _check_beginning(subscriber: Subscriber) -> None:
    """Return when the gateway serves some stream.

    Raises:
        NothingToWatch: no subscription is answered in time, or none is accepted.
    """
    try:
        async with asyncio.timeout(_CONNECT_S):
            await subscriber.connected.wait()
    except TimeoutError as error:
        reason = subscriber.lost_by or "no subscription was answered"
        message = f"no data from {subscriber.url} within {_CONNECT_S:.0f} s: {reason}"
        raise NothingToWatch(message) from error
    streams = subscriber.protocol.streams.values()
    if all(stream.facts.accepted is False for stream in streams):
        raise NothingToWatch("; ".join(subscriber.errors))


async def _until_stopped(subscriber: Subscriber, stopped: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(subscriber.run(), name="subscriber")
            checking = group.create_task(_check_beginning(subscriber), name="beginning")
            await stopped.wait()
            checking.cancel()
            running.cancel()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed


async def _lines(url: str, wants: list[Want], api_key: str | None, keep: Keep) -> None:
    stopped = asyncio.Event()

    def on_message(message: Message, _verdict: Verdict | None) -> None:
        if stopped.is_set():
            return
        keep(message)
        try:
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # The reader has seen enough (`| head`). Python flushes stdout once more at exit,
            # which must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            stopped.set()

    def on_connection(state: str) -> None:
        if state.startswith("disconnected"):
            print(state, file=sys.stderr)

    await _until_stopped(
        Subscriber(url, wants, api_key=api_key, on_message=on_message, on_connection=on_connection),
        stopped,
    )


async def _board(
    url: str, wants: list[Want], api_key: str | None, board: Board, keep: Keep
) -> None:
    def on_message(message: Message, verdict: Verdict | None) -> None:
        keep(message)
        board.take(message, verdict, time.time())

    subscriber = Subscriber(
        url,
        wants,
        api_key=api_key,
        on_message=on_message,
        on_connection=lambda state: board.connection_changed(state, time.time()),
    )
    board.latency = subscriber.latency
    board.freshness = subscriber.freshness
    async with asyncio.TaskGroup() as group:
        drawing = group.create_task(draw(board, url, Console()), name="board")
        try:
            await _until_stopped(subscriber, asyncio.Event())
        finally:
            drawing.cancel()


async def draw(board: Board, title: str, console: Console) -> None:
    """Redraw the board until cancelled; the last picture stays on the terminal."""

    def picture() -> RenderableType:
        board.judge()
        # Asked anew each time: the window may have been resized.
        return render(board, time.time(), title=title, width=console.width, height=console.height)

    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(picture(), refresh=True)
                await asyncio.sleep(1 / _FRAMES_A_SECOND)
        finally:
            live.update(picture(), refresh=True)
