"""What `make demo` does: a stack, subscribers that check it, a board, a summary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from market_data_fanout_client import Refused
from market_data_fanout_client.chain import ChainCounts, Verdict
from rich.console import Console

from services.common.runtime import flatten
from services.common.subjects import CHANNELS
from tools.embedded import ChildDied, ServerFailed
from tools.latency import LatencyHistogram
from tools.stack.gap import GapFigures, GapStory
from tools.stack.options import SERVICES, StackOptions
from tools.stack.process import NotReady
from tools.stack.stack import EXCHANGE, Stack, Started
from tools.stack.summary import Observation, problems, summary
from tools.stack.truth import Held, Witness
from tools.subscribed_book import record_of
from tools.subscriber import Message, Subscriber, Want
from tools.watch.board import Board
from tools.watch.command import draw

_CONNECT_TIMEOUT = 30.0
# How long a gap that is being healed when the time is up may still take.
_SETTLE_TIMEOUT = 8.0


@dataclass(frozen=True)
class DemoOptions:
    """`stack.duration` None runs until stopped; `board` draws on the terminal."""

    stack: StackOptions
    clients: int = 1
    gap: bool = False
    board: bool = False
    api_key: str | None = None


class NeverConnected(Exception):
    """The gateway is ready, and yet a subscription was not confirmed in time."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"no subscription was confirmed by {url} within {seconds:.0f} s")


# The ways in which a run can fail that are told in words.
_FAILURES = (ChildDied, NotReady, ServerFailed, Refused, NeverConnected, httpx.HTTPError)


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its name where it says nothing, as a timeout."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass
class _Signals:
    """The first SIGINT or SIGTERM ends the demo in order, the second one at once."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[Any] | None = None
    starting: bool = True

    def receive(self) -> None:
        if (self.starting or self.stop.is_set()) and self.task is not None:
            self.task.cancel()
        self.stop.set()


class Demo:
    """One run. Everything is said on standard output, the JSON summary last."""

    def __init__(self, options: DemoOptions) -> None:
        """Raises `PortTaken`; `BadCapture`, OSError: what is to be replayed cannot be."""
        # A recording is over in seconds: the subscribers shall not come when it is.
        held = replace(options.stack, hold=options.stack.upstream == "replay")
        self._options = options
        self._console = Console(highlight=False, soft_wrap=True)
        self._signals = _Signals()
        self._stack = Stack(held, self._started)
        self._board = Board(self._stack.products, CHANNELS if options.gap else ("ticker", "trades"))
        self._story = GapStory(self._say)
        self._subscribers: list[Subscriber] = []
        self._held = Held()
        self._witness: Witness | None = None
        # Expected channels on which the first subscriber has not got a tick yet.
        self._silent = set(self._stack.channels)
        self._seen = Observation(
            expected=self._stack.channels,
            counts={},
            clients=options.clients,
            latency=LatencyHistogram(),
            wants_gap=options.gap,
        )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _started(self, started: Started) -> None:
        self._say(
            f"  {started.name:<12}{started.what:<46}{started.where:<32}{started.seconds:5.1f} s"
        )

    async def run(self) -> int:
        self._signals.task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signals.receive)
        asked = self._options.stack
        self._say(
            f"Starting on this machine: upstream {asked.upstream}, broker {asked.broker_kind}, "
            f"products {', '.join(self._stack.products)}"
        )
        capture = self._stack.capture
        if capture is not None and capture.left_out:
            words = ", ".join(f"{count} {reason}" for reason, count in capture.left_out.items())
            self._say(f"left out of the recording: {words}")
        status = 1
        try:
            with self._ends():
                async with self._stack:
                    self._signals.starting = False
                    await self._observe()
        except asyncio.CancelledError:
            if not self._signals.stop.is_set():
                raise
            # Cancelled by our own signal handler: the stack has been closed on the way here.
            status = 130
            self._seen.failure = self._seen.failure or "interrupted"
        return self._report(status)

    @contextlib.contextmanager
    def _ends(self) -> Iterator[None]:
        """Turn the ways a run can fail into words, with the last lines of the one to blame."""
        try:
            yield
        except* _FAILURES as group:
            for error in flatten(group):
                self._blame(error)

    def _blame(self, error: BaseException) -> None:
        reason = first_line(error)
        self._seen.failure = self._seen.failure or reason
        self._say(f"\n{reason}")
        tail: str = getattr(error, "log_tail", "")
        if tail:
            self._say("its last lines:")
            for line in tail.splitlines():
                self._say(f"  | {line}")
        log_file: Path | None = getattr(error, "log_file", None)
        if log_file is not None:
            self._say(f"its log: {log_file}")

    # ------------------------------------------------------------------ while it runs

    async def _observe(self) -> None:
        self._where_to_look()
        self._subscribers = [self._subscriber(first=not n) for n in range(self._options.clients)]
        self._board.freshness = self._subscribers[0].freshness
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._stack.supervise(), name="supervise")]
                tasks += [
                    group.create_task(subscriber.run(), name=f"subscriber:{number}")
                    for number, subscriber in enumerate(self._subscribers)
                ]
                await self._all_connected()
                if self._stack.exchange is not None:
                    self._witness = Witness(self._stack.url(EXCHANGE), self._stack.products)
                    await self._witness.begin()
                began = time.monotonic()
                if self._options.board:
                    title = f"market data from {self._options.stack.upstream}"
                    tasks.append(group.create_task(draw(self._board, title, self._console)))
                if self._options.gap:
                    making = self._story.run(self._stack.url(EXCHANGE), self._stack.products[0])
                    tasks.append(group.create_task(making, name="gap"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.stack.duration):
                        await self._signals.stop.wait()
                self._seen.duration_s = time.monotonic() - began
                await self._settle()
                if self._options.gap and self._seen.gaps is not None:
                    self._story.conclude(self._seen.gaps)
                if self._witness is not None:
                    self._seen.truth = await self._witness.compare(self._held)
                for task in tasks:
                    task.cancel()
        finally:
            self._count()
        self._say("\nStopping, producers first ...")

    async def _all_connected(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                for subscriber in self._subscribers:
                    await subscriber.connected.wait()
        except TimeoutError as error:
            raise NeverConnected(self._stack.gateway_url, _CONNECT_TIMEOUT) from error

    def _subscriber(self, *, first: bool) -> Subscriber:
        wants = [
            # From the beginning, so that trades can be counted exactly.
            Want(channel, self._stack.products, from_seq=0 if channel == "trades" else None)
            for channel in CHANNELS
        ]
        return Subscriber(
            self._stack.gateway_url,
            wants,
            api_key=self._options.api_key,
            on_message=self._on_message if first else None,
            on_connection=self._on_connection if first else None,
        )

    def _on_message(self, message: Message, verdict: Verdict | None) -> None:
        now = time.time()
        self._held.take(message, verdict)
        if self._silent and message["type"] == "incr" and verdict is Verdict.APPLY:
            self._silent.discard(record_of(message)["channel"])
            if not self._silent:
                self._say(f"ticks flow on {', '.join(self._seen.expected)}")
        if self._options.board:
            self._board.take(message, verdict, now)
        self._story.take(message, now)

    def _on_connection(self, state: str) -> None:
        self._board.connection_changed(state, time.time())
        if state.startswith("disconnected") and not self._options.board:
            self._say(f"subscriber {state}")

    async def _settle(self) -> None:
        """Read the gap figures; a gap that is being healed right now is given its time."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        while True:
            self._seen.gaps = await GapFigures.read(self._stack.url("ingestor"))
            healing = self._seen.gaps is None or self._seen.gaps.detected > self._seen.gaps.healed
            if not healing or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.25)

    def _count(self) -> None:
        self._seen.counts = {channel: ChainCounts() for channel in CHANNELS}
        for subscriber in self._subscribers:
            for channel, counts in self._seen.counts.items():
                counts.add(subscriber.counts(channel))
            self._seen.latency.merge(subscriber.latency)
            self._seen.reconnects += subscriber.resumes
            self._seen.errors += subscriber.errors

    # ------------------------------------------------------------------ words

    def _where_to_look(self) -> None:
        stack = self._stack
        products = ",".join(stack.products)
        metrics = "  ".join(f"{stack.url(name)}/metrics" for name in SERVICES)
        self._say(
            f"\n  web board    {stack.url('gateway')}/\n"
            f"  websocket    {stack.gateway_url}\n"
            f"  terminal     make watch-gateway URL={stack.gateway_url} PRODUCTS={products}\n"
            f"  metrics      {metrics}\n"
            f"  logs         {stack.run_dir}\n"
        )
        if self._options.stack.duration is None:
            self._say("Ctrl-C ends it.")

    def _report(self, status: int) -> int:
        if not self._seen.counts:
            self._count()
        for text in problems(self._seen):
            if text != self._seen.failure:
                self._say(f"problem: {text}")
        line = summary(self._seen, self._stack.products, self._options.stack)
        if self._stack.capture is not None:
            line["left_out"] = dict(self._stack.capture.left_out)
        self._console.file.flush()
        print(json.dumps(line), flush=True)
        return 0 if line["ok"] else status
