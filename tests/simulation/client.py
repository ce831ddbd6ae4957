"""Subscribers of a run: what they hold, what they are told, and whether they may believe it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from market_data_fanout_client.chain import Verdict

from tests.simulation.plan import Plan, Slow, WrongClock
from tools.stack.truth import Held
from tools.subscribed_book import record_of
from tools.subscriber import Message, Subscriber, Want

CHANNELS = ("trades", "ticker", "book")
# The gateway's own bound (`STALE_AFTER_MS`), the ingestor's before it pulses no more for a product
# (`HEARTBEAT_SUSPECT_MS`), a pulse's period, and how often those two and the client look, seconds.
_STALE_S = 10.0 + 3.0 + 2.0 + 1.0


def allowed_age_s(plan: Plan) -> float:
    """How old may be what is shown as live: the documented time, and what its faults add to it.

    Ages are told by the clocks of ingestor and gateway, and what is slow tells late.
    """
    wrong = sum(
        abs(fault.by_s)
        for fault in plan.faults
        if isinstance(fault, WrongClock) and fault.part.startswith(("ingestor", "gateway"))
    )
    slow = sum(2 * fault.by_s for fault in plan.faults if isinstance(fault, Slow))
    return _STALE_S + wrong + slow


class Client:
    """A subscriber, and what it holds.

    Args:
        now_us: true time.
        allowed_age_s: see `allowed_age_s`; None while nobody judges it.

    Attributes:
        states: what it was told last of each stream on its connection.
        misled: streams that were shown as live and were older than they may be.
    """

    def __init__(
        self, url: str, wants: Iterable[Want], now_us: Callable[[], int], allowed_age_s: float
    ) -> None:
        self.held = Held()
        self.states: dict[str, str] = {}
        self.misled: list[str] = []
        self.judging = True
        self._newest: dict[str, int] = {}
        self._now_us = now_us
        self._allowed_us = allowed_age_s * 1e6
        self.subscriber = Subscriber(
            url, wants, on_message=self._take, on_connection=self._on_connection
        )

    def _on_connection(self, told: str) -> None:
        if told.startswith("disconnected"):
            self.states.clear()

    def _take(self, message: Message, verdict: Verdict | None) -> None:
        self.held.take(message, verdict)
        kind = message.get("type")
        if kind == "hb":
            self._judge()
        elif kind == "status":
            self.states[_stream(message)] = record_of(message)["state"]
        elif kind == "incr" and verdict is Verdict.APPLY:
            self._heard(message, message["tick"]["ts_event"])
        elif kind == "snapshot":
            # Its own time is the writer's; what is wrong with it shows once it has aged here.
            self._heard(message, self._now_us())

    def _heard(self, message: Message, at_us: int) -> None:
        stream = _stream(message)
        self._newest[stream] = max(at_us, self._newest.get(stream, 0))

    def _judge(self) -> None:
        for stream, at_us in self._newest.items():
            age_us = self._now_us() - at_us
            # A book changes all the time; the other channels may well be quiet.
            if (
                self.judging
                and ":book:" in stream
                and self.states.get(stream) == "live"
                and age_us > self._allowed_us
            ):
                self.misled.append(f"{stream} is shown as live and {age_us / 1e6:.1f} s old")


class Records:
    """What a subscriber from long ago is sent, stream by stream."""

    def __init__(self) -> None:
        self.chained: dict[str, list[tuple[int, int]]] = {}
        self.ended: set[str] = set()

    def take(self, message: Message, verdict: Verdict | None) -> None:
        kind = message.get("type")
        if kind in ("incr", "reset") and verdict is Verdict.APPLY:
            record = record_of(message)
            self.chained.setdefault(_stream(message), []).append((record["epoch"], record["seq"]))
        elif kind == "backfill" and message["state"] == "end":
            self.ended.add(_stream(message))


def _stream(message: dict[str, Any]) -> str:
    record = record_of(message)
    return f"{record['venue']}:{record['channel']}:{record['product']}"
