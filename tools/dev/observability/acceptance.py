"""`make observe-check`: do the dashboards and alerts tell the truth about a running platform?

A real Prometheus scrapes the demo. First nothing is wrong: every panel has data and no alert fires.
Then the exchange drops messages: gaps and resyncs are counted and shown. Then it falls silent: the
stale alert fires, and is over when it speaks again. Prints what every query answered.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import click
import httpx

from tools.dev.observability.collector import Collector
from tools.dev.observability.dashboards import queries
from tools.dev.observability.prometheus import Prometheus, PrometheusMissing
from tools.stack import Stack, StackOptions
from tools.stack.options import SERVICES
from tools.stack.stack import EXCHANGE
from tools.subscriber import Subscriber, Want

_CHANNELS = ("ticker", "trades", "book")
_DROPPED = 40
_GAPS = 'sum(md_seq_gap_total{stage="venue"})'
_HEALED = 'sum(md_resync_total{outcome!~"lost|open"})'
_GAP_PANEL = "is-the-data-good: Gaps found, by cause [0]"
_STALE = "MarketDataStreamStale"


class Unfulfilled(Exception):
    """Something did not come out as it has to."""


async def eventually[T](
    what: str, ask: Callable[[], Awaitable[T]], well: Callable[[T], bool], seconds: float
) -> float:
    """Ask until the answer is as it should be; how long it took, in seconds."""
    began = time.monotonic()
    while not well(await ask()):
        if time.monotonic() - began > seconds:
            raise Unfulfilled(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(1)
    return time.monotonic() - began


class Check:
    """One run over a running stack."""

    def __init__(self, stack: Stack, prometheus: Prometheus) -> None:
        self._stack = stack
        self._prometheus = prometheus
        self.results: dict[str, object] = {}

    async def all_well(self, seconds: float) -> None:
        prometheus = self._prometheus
        up, all_up = prometheus.targets_up, len(SERVICES)
        await eventually("all targets are scraped", up, lambda count: count == all_up, 20)
        fired: set[str] = set()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            fired.update(await prometheus.alerts())
            await asyncio.sleep(1)
        answers = {title: await prometheus.query(text) for title, text in queries().items()}
        for title, values in answers.items():
            print(f"  {title:<78}{_shown(values)}")
        empty = sorted(title for title, values in answers.items() if not values)
        self.results |= {
            "queries": len(answers),
            "without_data": empty,
            "nothing_observed": sorted(
                title for title, v in answers.items() if v and all(map(math.isnan, v))
            ),
            "alerts_while_well": sorted(fired),
            "exemplars": await prometheus.exemplars("md_end_to_end_seconds_bucket"),
        }
        if empty or fired:
            raise Unfulfilled(f"panels without data: {empty}; alerts that fired: {sorted(fired)}")

    async def messages_dropped(self) -> None:
        prometheus = self._prometheus
        gaps, healed = await self._gaps()
        product = self._stack.products[0]
        types = ["match", "ticker", "l2update"]
        await self._faults(drop={"count": _DROPPED, "products": [product], "types": types})
        took = await eventually(
            "gaps and resyncs are counted",
            self._gaps,
            lambda now: now[0] > gaps and now[1] > healed,
            60,
        )
        panel = partial(prometheus.total, queries()[_GAP_PANEL])
        await eventually("the panel of gaps shows it", panel, lambda count: count > 0, 30)
        gaps_now, healed_now = await self._gaps()
        self.results["gaps"] = {
            "seconds_until_seen": round(took, 1),
            "md_seq_gap_total": [gaps, gaps_now],
            "md_resync_total_healed": [healed, healed_now],
            "panel": await panel(),
            "alerts": await prometheus.alerts(),
        }

    async def _gaps(self) -> tuple[float, float]:
        """How many were found, and how many were healed."""
        return await self._prometheus.total(_GAPS), await self._prometheus.total(_HEALED)

    async def feed_stalled(self) -> None:
        """Let the exchange fall silent, and take no new connections, until the alert fires."""
        await self._faults(stall_s=120, refuse_s=120)
        firing = self._prometheus.alerts
        took = await eventually(f"{_STALE} fires", firing, lambda alerts: _STALE in alerts, 90)
        await self._faults(clear=True)
        recovered = await eventually(
            f"{_STALE} is over", firing, lambda alerts: _STALE not in alerts, 90
        )
        self.results["stall"] = {
            "seconds_until_alert": round(took, 1),
            "seconds_until_over": round(recovered, 1),
        }

    def statistics_logged(self) -> None:
        lines = {
            name: service.log_file.read_text().count('"event": "statistics"')
            for name, service in self._stack.services.items()
        }
        self.results["statistics_lines"] = lines
        if not all(lines.values()):
            raise Unfulfilled(f"no statistics line: {lines}")

    async def _faults(self, **faults: object) -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            url = f"{self._stack.url(EXCHANGE)}/_control/faults"
            (await client.post(url, json=faults)).raise_for_status()


async def _later(stack: Stack, wants: list[Want], seconds: float) -> None:
    await asyncio.sleep(seconds)
    await Subscriber(stack.gateway_url, wants).run()


def _shown(values: list[float]) -> str:
    text = ", ".join(f"{value:.4g}" for value in values[:6])
    return f"{text}, ... ({len(values)})" if len(values) > 6 else text


async def run(seconds: float) -> int:
    """The whole run; the exit status is the answer."""
    with tempfile.TemporaryDirectory(prefix="mdf-observe-") as name, Collector() as collector:
        environment = {
            # Traces are on, so that histograms have exemplars.
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            # So that a minute is enough for an archive batch.
            "ARCHIVE_PERIOD_S": "15",
        }
        options = StackOptions(run_dir=Path(name), environment={"*": environment})
        async with Stack(options) as stack:
            targets = {name: f"127.0.0.1:{stack.services[name].port}" for name in SERVICES}
            wants = [
                Want(channel, stack.products, from_seq=0 if channel == "trades" else None)
                for channel in _CHANNELS
            ]
            async with Prometheus(targets) as prometheus, asyncio.TaskGroup() as group:
                subscriber = Subscriber(stack.gateway_url, wants)
                following = [group.create_task(subscriber.run(), name="subscriber")]
                # A second one comes when the first has been scraped: its snapshot is an increase.
                following.append(group.create_task(_later(stack, wants, seconds / 3)))
                check = Check(stack, prometheus)
                status = 0
                try:
                    await check.all_well(seconds)
                    await check.messages_dropped()
                    await check.feed_stalled()
                    check.statistics_logged()
                except Unfulfilled as error:
                    print(f"FAIL  {error}", file=sys.stderr)
                    status = 1
                for task in following:
                    task.cancel()
                check.results |= {"traces": len(collector.traces()), "ok": status == 0}
                print(json.dumps(check.results))
                return status


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long nothing is wrong.")
def main(seconds: float) -> None:
    """Run the demo under a real Prometheus and see whether it tells the truth."""
    try:
        raise SystemExit(asyncio.run(run(seconds)))
    except PrometheusMissing as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
