"""`mdf loadtest`: subscribers that check every chain, and what they measured."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import click

from tools.options import ProductList
from tools.subscriber import ChainCounts, LatencyHistogram, Subscriber, Want
from tools.subscriber.client import Refused


@click.command()
@click.option("--url", envvar="URL", default="ws://127.0.0.1:8080/ws", show_default=True)
@click.option(
    "--products", envvar="PRODUCTS", type=ProductList(), default="BTC-USD", show_default=True
)
@click.option(
    "--channel",
    envvar="CHANNEL",
    type=click.Choice(["ticker", "trades", "book"]),
    default="ticker",
    show_default=True,
)
@click.option("--clients", envvar="CLIENTS", type=click.IntRange(1), default=100, show_default=True)
@click.option(
    "--duration",
    envvar="DURATION",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds, from when the last client is subscribed.",
)
@click.option(
    "--ramp",
    type=click.FloatRange(0, min_open=True),
    default=200.0,
    show_default=True,
    help="New connections a second.",
)
@click.option("--api-key", envvar="API_KEY")
def loadtest(
    url: str,
    products: tuple[str, ...],
    channel: str,
    clients: int,
    duration: float,
    ramp: float,
    api_key: str | None,
) -> None:
    """Put many verifying subscribers on a gateway.

    Prints one JSON line. The exit status is 0 when every client got ticks and none saw an
    unexplained break.
    """
    want = Want(channel, products)
    subscribers = [Subscriber(url, [want], api_key=api_key) for _ in range(clients)]
    try:
        seconds = asyncio.run(_run(subscribers, duration, ramp))
    except Refused as error:
        raise click.ClickException(str(error)) from error
    result = _result(subscribers, seconds)
    click.echo(json.dumps(result))
    raise SystemExit(not result["ok"])


async def _run(subscribers: list[Subscriber], duration: float, ramp: float) -> float:
    """Run them all for `duration`; how long the ticks were counted, seconds."""
    began = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for subscriber in subscribers:
                tasks.append(group.create_task(subscriber.run()))
                await asyncio.sleep(1 / ramp)
            for subscriber in subscribers:
                await subscriber.connected.wait()
            print(f"{len(subscribers)} clients subscribed", file=sys.stderr)
            await asyncio.sleep(duration)
            for task in tasks:
                task.cancel()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return time.monotonic() - began


def _result(subscribers: list[Subscriber], seconds: float) -> dict[str, object]:
    total, latency = ChainCounts(), LatencyHistogram()
    for subscriber in subscribers:
        total.add(subscriber.counts())
        latency.merge(subscriber.latency)
    idle = sum(not subscriber.counts().applied for subscriber in subscribers)
    p50, p99 = latency.quantile(0.5), latency.quantile(0.99)
    return {
        "clients": len(subscribers),
        "clients_without_ticks": idle,
        "ticks": total.applied,
        "ticks_per_s": round(total.applied / seconds, 1),
        "latency_ms_p50": None if p50 is None else round(p50 / 1000, 2),
        "latency_ms_p99": None if p99 is None else round(p99 / 1000, 2),
        "duplicates": total.duplicates,
        "snapshots": total.snapshots,
        "resets": total.resets,
        "chain_breaks": total.breaks,
        "unexplained_breaks": total.unexplained,
        "reconnects": sum(subscriber.resumes for subscriber in subscribers),
        "errors": sum(len(subscriber.errors) for subscriber in subscribers),
        "duration_s": round(seconds, 1),
        "ok": not idle and not total.unexplained,
    }
