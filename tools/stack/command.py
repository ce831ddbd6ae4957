"""`mdf stack`: what `make demo` runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tools.options import POSITIVE, ProductList, option
from tools.simulator.replay import BadCapture
from tools.stack.demo import Demo, DemoOptions
from tools.stack.options import StackOptions
from tools.stack.stack import PortTaken

_GAP_DURATION = 20.0
_RUNS_KEPT = 5
_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)


@click.command(context_settings={"show_default": True})
@option(
    "--duration", type=POSITIVE, text="Stop after so many seconds, counted from when all is ready."
)
@option(
    "--upstream",
    type=click.Choice(["sim", "coinbase", "replay"]),
    default="sim",
    text="A simulated exchange, the live feed, or a capture.",
)
@option("--capture", type=_FILE, text="What --upstream replay replays: one venue message a line.")
@option(
    "--truth",
    type=_FILE,
    text="A recording that has more than the capture; the replay's REST knows it.",
)
@option(
    "--speed",
    type=POSITIVE,
    text="Of the replay; else as recorded, or so that it fits into --duration.",
)
@option(
    "--broker",
    "broker_kind",
    env="BROKER_KIND",
    type=click.Choice(["nats", "redis"]),
    default="nats",
    text="JetStream or Redis Streams.",
)
@option(
    "--products",
    type=ProductList(),
    default=(),
    text="Comma-separated; else three, or the capture's.",
)
@option("--gateway-port", type=click.IntRange(1, 65_535), text="Else a free one.")
@option(
    "--clients",
    type=click.IntRange(1, 200),
    default=1,
    text="Subscribers that check every chain.",
)
@option("--seed", default=1, text="Of the simulation.")
@option("--api-key", text="For a gateway with AUTH_API_KEYS.")
@click.option(
    "--gap",
    is_flag=True,
    help=f"Drop messages upstream on purpose; {_GAP_DURATION:.0f} s unless --duration says else.",
)
@click.option("--board/--no-board", default=None, help="Else when standard output is a terminal.")
def stack(
    *, clients: int, gap: bool, board: bool | None, api_key: str | None, **asked: Any
) -> None:
    """Run the whole platform on this machine.

    Starts embedded servers, an exchange and the four services, subscribes to everything and checks
    every chain. The last line is a JSON summary; the exit status is 0 only if data flowed end to
    end, no client saw an unexplained break, and a client's books and trades equal the exchange's.
    """
    options = StackOptions(**asked)
    if options.upstream == "replay" and options.capture is None:
        raise click.UsageError("--upstream replay needs --capture (CAPTURE=<file.ndjson>)")
    if options.capture is not None and options.upstream != "replay":
        raise click.UsageError("--capture goes with --upstream replay (UPSTREAM=replay)")
    if options.truth is not None and options.capture is None:
        raise click.UsageError("--truth goes with --capture")
    if gap and options.upstream != "sim":
        raise click.UsageError("--gap needs the simulated exchange (UPSTREAM=sim)")
    if gap and options.duration is None:
        options = replace(options, duration=_GAP_DURATION)
    options = replace(options, run_dir=_new_run_dir(Path(".mdf").absolute()))
    on_board = sys.stdout.isatty() if board is None else board
    try:
        demo = Demo(DemoOptions(options, clients, gap, on_board, api_key))
    except (BadCapture, PortTaken, OSError) as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(asyncio.run(demo.run()))


def _new_run_dir(parent: Path) -> Path:
    """A folder for this run; only the newest few are kept."""
    parent.mkdir(exist_ok=True)
    older = sorted(path for path in parent.glob("run-*") if not _is_running(path))
    for path in older[: max(0, len(older) - _RUNS_KEPT + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    made = parent / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    made.mkdir()
    return made


def _is_running(run_dir: Path) -> bool:
    """Whether the process that made this folder still lives."""
    pid = run_dir.name.rpartition("-")[2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
