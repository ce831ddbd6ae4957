"""`mdf stack`: what `make demo` runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

import click

from tools.options import ProductList
from tools.simulator.replay import BadCapture
from tools.stack.demo import Demo, DemoOptions
from tools.stack.options import BrokerKind, StackOptions, Upstream

_GAP_DURATION = 20.0
_RUNS_KEPT = 5


@click.command()
@click.option(
    "--duration",
    envvar="DURATION",
    type=click.FloatRange(0, min_open=True),
    help="Stop after so many seconds, counted from when all is ready. [env DURATION]",
)
@click.option(
    "--upstream",
    envvar="UPSTREAM",
    type=click.Choice(["sim", "coinbase", "replay"]),
    default="sim",
    show_default=True,
    help="A simulated exchange, the live feed, or a capture. [env UPSTREAM]",
)
@click.option(
    "--capture",
    envvar="CAPTURE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What --upstream replay replays: one venue message a line. [env CAPTURE]",
)
@click.option(
    "--truth",
    envvar="TRUTH",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recording that has more than the capture; the replay's REST knows it. [env TRUTH]",
)
@click.option(
    "--speed",
    envvar="SPEED",
    type=click.FloatRange(0, min_open=True),
    help="Of the replay; else as recorded, or so that it fits into --duration. [env SPEED]",
)
@click.option(
    "--broker",
    envvar="BROKER_KIND",
    type=click.Choice(["nats", "redis"]),
    default="nats",
    show_default=True,
    help="JetStream or Redis Streams. [env BROKER_KIND]",
)
@click.option(
    "--products",
    envvar="PRODUCTS",
    type=ProductList(),
    help="Comma-separated; else three, or the capture's. [env PRODUCTS]",
)
@click.option(
    "--gateway-port",
    envvar="GATEWAY_PORT",
    type=click.IntRange(1, 65_535),
    help="Else a free one. [env GATEWAY_PORT]",
)
@click.option(
    "--clients",
    envvar="CLIENTS",
    type=click.IntRange(1, 200),
    default=1,
    show_default=True,
    help="Subscribers that check every chain. [env CLIENTS]",
)
@click.option(
    "--seed",
    envvar="SEED",
    type=int,
    default=1,
    show_default=True,
    help="Of the simulation. [env SEED]",
)
@click.option("--api-key", envvar="API_KEY", help="For a gateway with AUTH_API_KEYS. [env API_KEY]")
@click.option(
    "--gap",
    is_flag=True,
    help=f"Drop messages upstream on purpose; {_GAP_DURATION:.0f} s unless --duration says else.",
)
@click.option("--board/--no-board", default=None, help="Else when standard output is a terminal.")
def stack(
    duration: float | None,
    upstream: Upstream,
    capture: Path | None,
    truth: Path | None,
    speed: float | None,
    broker: BrokerKind,
    products: tuple[str, ...] | None,
    gateway_port: int | None,
    clients: int,
    seed: int,
    api_key: str | None,
    gap: bool,
    board: bool | None,
) -> None:
    """Run the whole platform on this machine.

    Starts embedded servers, an exchange and the four services, subscribes to everything and checks
    every chain. The last line is a JSON summary; the exit status is 0 only if data flowed end to
    end, no client saw an unexplained break, and a client's books and trades equal the exchange's.
    """
    if upstream == "replay" and capture is None:
        raise click.UsageError("--upstream replay needs --capture (CAPTURE=<file.ndjson>)")
    if capture is not None and upstream != "replay":
        raise click.UsageError("--capture goes with --upstream replay (UPSTREAM=replay)")
    if truth is not None and capture is None:
        raise click.UsageError("--truth goes with --capture")
    if gap and upstream != "sim":
        raise click.UsageError("--gap needs the simulated exchange (UPSTREAM=sim)")
    if gap and duration is None:
        duration = _GAP_DURATION
    options = DemoOptions(
        stack=StackOptions(
            upstream=upstream,
            broker_kind=broker,
            capture=capture.absolute() if capture is not None else None,
            truth=truth.absolute() if truth is not None else None,
            speed=speed,
            duration=duration,
            products=products or (),
            gateway_port=gateway_port,
            run_dir=_new_run_dir(Path(".mdf").absolute()),
            seed=seed,
        ),
        duration=duration,
        clients=clients,
        gap=gap,
        board=sys.stdout.isatty() if board is None else board,
        api_key=api_key,
    )
    try:
        demo = Demo(options)
    except (BadCapture, OSError) as error:
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
