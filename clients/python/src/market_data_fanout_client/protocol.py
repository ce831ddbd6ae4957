"""The protocol without a socket: fed with messages, it says what to hand out and to send. Pure.

One `Protocol` outlives its connections: it holds every stream's position, so `opened()` knows what
to ask for again.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from market_data_fanout_client import decode
from market_data_fanout_client.book import OrderBook
from market_data_fanout_client.chain import Chain, ChainCounts, Verdict
from market_data_fanout_client.decode import Json, stream_of
from market_data_fanout_client.errors import NotSubscribed, Refused
from market_data_fanout_client.freshness import Freshness, Line
from market_data_fanout_client.messages import (
    AnyEvent,
    Backfill,
    Connected,
    ModeChange,
    Reset,
    Resync,
    ServerError,
    Status,
    StreamError,
    Subscribed,
)
from market_data_fanout_client.stream_state import StreamState

SUBPROTOCOL = "md.v1.json"
# So that a command stays far below the 64 KiB a gateway takes.
_PRODUCTS_PER_COMMAND = 500
# What tells of its stream and changes nothing in it.
_ONLY_EVENTS: dict[str, Callable[[Json], AnyEvent]] = {
    "late": decode.late,
    "status": lambda message: decode.read(Status, message),
    "mode": lambda message: decode.read(
        ModeChange, message, before=message["from"], after=message["to"]
    ),
}
_CAUSES: dict[Verdict, Literal["break", "epoch", "behind"]] = {
    Verdict.BREAK: "break",
    Verdict.EPOCH: "epoch",
    Verdict.BEHIND: "behind",
}


def _place(snapshot: Json) -> tuple[int, int]:
    return snapshot["epoch"], snapshot["seq"]


def _when(refusal: Json, now: float) -> float:
    """When to ask again what was refused until then."""
    return now + float(refusal.get("retry_after_ms", 1000)) / 1000


class Protocol:
    """What one client wants and holds.

    Read `heartbeat_s` (0 before the first `welcome`) and `reconnect_after_s` (set by `drain`).

    Args:
        raw: judge and answer, and leave the messages as they are: ticks, snapshots and all else
            that a message says itself are not made into events, and no books are kept.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        # The stream and the verdict of the message taken in last, where a chain had to judge it.
        self.judged: tuple[StreamState, Verdict] | None = None
        self.streams: dict[str, StreamState] = {}
        self.connections = 0
        self.heartbeat_s = 0.0
        self.reconnect_after_s: tuple[float, float] | None = None
        self.line = Line()
        self._ids = 0
        self._unanswered: dict[int, Json] = {}
        # (when, order, command): what to send, soonest first.
        self._outbox: list[tuple[float, int, Json]] = []

    # ------------------------------------------------------------------ what the user wants

    def subscribe(
        self,
        products: Iterable[str],
        channels: Iterable[str],
        venue: str,
        from_seq: int | Mapping[str, int] | None,
        epoch: int | None,
        options: Mapping[str, Any],
    ) -> None:
        """Want these streams from now on; `opened` or the next `ready` sends the commands."""
        chosen = {}
        given = tuple(sorted((k, v) for k, v in options.items() if v is not None))
        for channel, product in itertools.product(channels, products):
            seq = from_seq.get(product) if isinstance(from_seq, Mapping) else from_seq
            chain = Chain(seq, epoch if seq else None)
            book = OrderBook() if channel == "book" and not self._raw else None
            stream = StreamState(venue, channel, product, given, seq, chain, book)
            chosen[f"{venue}:{channel}:{product}"] = stream
        self.streams |= chosen
        for command in self._subscriptions(chosen.values()):
            self._command(command)

    def unsubscribe(self, products: Iterable[str], channels: Iterable[str], venue: str) -> None:
        """Want none of these any more, or, where one was not wanted, change nothing.

        Raises:
            NotSubscribed: it was not.
        """
        names, channels = list(products), list(channels)
        streams = [f"{venue}:{channel}:{product}" for channel in channels for product in names]
        for stream in streams:
            if stream not in self.streams:
                raise NotSubscribed(stream)
        for stream in streams:
            self.streams.pop(stream, None)
        for channel in channels:
            command = {"venue": venue, "channel": channel, "products": names}
            self._command({"type": "unsubscribe", **command})

    def counts(self, channel: str | None = None) -> ChainCounts:
        """What happened to all streams, or to one channel's, added up."""
        total = ChainCounts()
        for stream in self.streams.values():
            if channel in (None, stream.channel):
                total.add(stream.chain.counts)
        return total

    # ------------------------------------------------------------------ connection

    def opened(self, asked: float | None = None) -> None:
        """A connection stands: everything wanted is asked for, from where it is held.

        `asked`: when it was asked for, seconds on the clock of `take`.
        """
        self.connections += 1
        self.line.opened(asked)
        self.reconnect_after_s = None
        self._outbox.clear()
        self._unanswered.clear()
        for stream in self.streams.values():
            stream.chain.reconnected()
            stream.parts.clear()
            stream.backfilling = False
            stream.facts.accepted = None
        for command in self._subscriptions(self.streams.values()):
            self._command(command)

    def freshness(self, name: str, now: float) -> Freshness:
        """Whether what is held of a stream may be taken for the market now.

        Raises:
            NotSubscribed: it is not wanted.
        """
        stream = self.streams.get(name)
        if stream is None:
            raise NotSubscribed(name)
        void = stream.state_due and stream.channel == "book"
        broken = stream.chain.waiting or void
        return self.line.judge(stream.facts, now, broken=broken, backfilling=stream.backfilling)

    def ready(self, now: float) -> Json | None:
        """The next command whose time has come."""
        if not self._outbox or self._outbox[0][0] > now:
            return None
        return heapq.heappop(self._outbox)[2]

    @property
    def next_due(self) -> float | None:
        return self._outbox[0][0] if self._outbox else None

    # ------------------------------------------------------------------ messages

    def take(self, message: Json, now: float) -> list[AnyEvent]:
        """Take in one server message received at `now` (seconds on a clock that goes forward).

        Raises:
            Refused: the gateway will not let this client in.
        """
        self.judged = None
        self.line.heard = now
        kind = str(message.get("type"))
        if kind == "incr":
            return self._incr(message)
        if kind in _ONLY_EVENTS:
            stream = self.streams.get(stream_of(message))
            if stream is None:
                return []
            if kind == "status":
                stream.facts.feed = str(message["state"])
            elif kind == "mode":
                stream.facts.mode, lag = str(message["to"]), message.get("lag", 0)
                stream.facts.lag = lag if stream.facts.mode == "catch_up" else 0
            return [] if self._raw else [_ONLY_EVENTS[kind](message)]
        if kind not in ("rate_limit", "error"):
            self._unanswered.pop(message.get("id", 0), None)
        handler = getattr(self, f"_on_{kind}", None)
        # Types that are not known are ignored, so that older clients live on.
        return handler(message, now) if handler is not None else []

    def _incr(self, message: Json) -> list[AnyEvent]:
        row = message["tick"]
        stream = self.streams.get(stream_of(row))
        if stream is None:
            return []
        prev = message["prev"] if "prev" in message else row.get("prev")
        held = stream.chain.seq
        verdict = stream.chain.incr(row["epoch"], row["seq"], prev)
        self.judged = stream, verdict
        if verdict is not Verdict.APPLY:
            if verdict is Verdict.IGNORE:
                return []
            return [self._resync(stream, verdict, held, row["seq"])]
        stream.facts.ingested(row["ts_ingest"])
        if self._raw:
            return []
        tick = decode.tick(row, prev, message.get("merged", 1))
        if stream.book is not None and stream.book.valid:
            stream.book.apply(tick.epoch, tick.seq, tick.fields.changes)
        return [tick]

    def _on_welcome(self, message: Json, now: float) -> list[AnyEvent]:
        self.heartbeat_s = message.get("heartbeat_ms", 0) / 1000
        self.line.heartbeat_s = self.heartbeat_s
        self.line.welcomed(message.get("server_time"), now)
        return [Connected(self.connections, str(message.get("session", "")))]

    def _on_snapshot(self, message: Json, _now: float) -> list[AnyEvent]:
        stream = self.streams.get(stream_of(message["snapshot"]))
        if stream is None:
            return []
        part, row = message.get("part", 1), message["snapshot"]
        begun = stream.parts[-1]["snapshot"] if stream.parts else row
        if part != len(stream.parts) + 1 or _place(begun) != _place(row):
            # What is held belongs to a snapshot whose end never came.
            stream.parts.clear()
            if part != 1:
                # And this to one whose beginning was for an earlier subscription.
                return []
        stream.parts.append(message)
        if not message.get("last", True):
            return []
        snapshot = None if self._raw else decode.snapshot(stream.parts)
        stream.parts.clear()
        stream.state_due = False
        stream.chain.snapshot(*_place(row))
        self.line.caught_up(stream.facts)
        self.judged = stream, Verdict.APPLY
        if snapshot is None:
            return []
        if stream.book is not None:
            stream.book.replace(snapshot.epoch, snapshot.seq, snapshot.bids, snapshot.asks)
        return [snapshot]

    def _on_reset(self, message: Json, _now: float) -> list[AnyEvent]:
        stream = self.streams.get(stream_of(message))
        if stream is None:
            return []
        verdict = stream.chain.reset(message["epoch"], message["seq"], message.get("prev"))
        self.judged = stream, verdict
        if verdict is Verdict.IGNORE:
            return []
        stream.parts.clear()
        stream.state_due = True
        if stream.book is not None:
            stream.book.valid = False
        return [] if self._raw else [decode.read(Reset, message)]

    def _on_backfill(self, message: Json, _now: float) -> list[AnyEvent]:
        stream = self.streams.get(stream_of(message))
        if stream is None:
            return []
        stream.backfilling = message["state"] == "begin"
        if not stream.backfilling:
            self.line.caught_up(stream.facts)
        if self._raw:
            return []
        return [decode.read(Backfill, message, first=message["from"], last=message.get("to"))]

    def _on_hb(self, message: Json, now: float) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        self.line.says(message.get("server_time"), now)
        for name, head in message.get("heads", {}).items():
            stream = self.streams.get(name)
            if stream is None or stream.backfilling or head is None:
                continue
            verdict = stream.chain.head(head, now, self.heartbeat_s)
            if verdict.asks_resync:
                events.append(self._resync(stream, verdict, stream.chain.seq, head))
            elif stream.chain.seq is not None and head <= stream.chain.seq:
                self.line.caught_up(stream.facts)
        return events

    def _on_subscribed(self, message: Json, now: float) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        for result in message.get("results", ()):
            stream = self.streams.get(stream_of(result))
            if stream is None:
                continue
            retried = result.get("error", {}).get("retry") == "after"
            stream.facts.accepted = None if retried else bool(result.get("ok"))
            stream.facts.mode, stream.facts.lag = str(result.get("mode") or ""), 0
            if not result.get("ok"):
                error = result.get("error", {})
                if retried:
                    for command in self._subscriptions([stream]):
                        self._command(command, _when(error, now))
                events.append(decode.read(StreamError, {**error, **stream.names}))
            elif not self._raw:
                events.append(decode.read(Subscribed, result, head=result.get("seq")))
        return events

    def _on_rate_limit(self, message: Json, now: float) -> list[AnyEvent]:
        command = self._unanswered.get(message.get("id", 0))
        if message.get("scope") == "commands" and command is not None:
            # It was not obeyed: say it again when told.
            self._push(_when(message, now), command)
        return []

    def _on_drain(self, message: Json, _now: float) -> list[AnyEvent]:
        low, high = message.get("reconnect_after_ms", (0, 1000))
        self.reconnect_after_s = (low / 1000, high / 1000)
        for name, resume in message.get("resume", {}).items():
            if name in self.streams and resume.get("cursor"):
                self.streams[name].cursor = (resume["epoch"], resume["seq"], resume["cursor"])
        return []

    def _on_error(self, message: Json, now: float) -> list[AnyEvent]:
        code = message.get("code", 0)
        if 2000 <= code < 2005:
            raise Refused(code, f"{message.get('name')}: {message.get('message', '')}")
        command = self._unanswered.get(message.get("id", 0))
        stream = self.streams.get(str(message.get("stream")))
        if stream is None:
            return [decode.read(ServerError, message)]
        if command is not None and command["type"] == "subscribe":
            # The same stands in the stream's result, where it is acted on.
            return []
        if command is not None and message.get("retry") == "after":
            self._push(_when(message, now), command)
        return [decode.read(StreamError, {**message, **stream.names})]

    # ------------------------------------------------------------------ commands

    def _resync(self, stream: StreamState, verdict: Verdict, held: int | None, got: int) -> Resync:
        if stream.book is not None:
            stream.book.valid = False
        self._command({"type": "resync", **stream.names})
        return Resync(**stream.names, cause=_CAUSES[verdict], held=held, got=got)

    def _subscriptions(self, streams: Iterable[StreamState]) -> Iterator[Json]:
        """As few commands as can be: one for all that share channel, options and epoch."""
        groups: dict[tuple[Any, ...], dict[str, int | str | None]] = {}
        for stream in streams:
            kind, epoch, position = stream.position()
            group = (stream.venue, stream.channel, stream.options, kind, epoch)
            groups.setdefault(group, {})[stream.product] = position
        for (venue, channel, options, kind, epoch), positions in groups.items():
            products = list(positions)
            for start in range(0, len(products), _PRODUCTS_PER_COMMAND):
                part = products[start : start + _PRODUCTS_PER_COMMAND]
                known = {p: positions[p] for p in part if positions[p] is not None}
                yield {
                    "type": "subscribe",
                    "venue": venue,
                    "channel": channel,
                    "products": part,
                    "batch": True,
                    **dict(options),
                    **({kind: known} if known else {}),
                    **({"epoch": epoch} if epoch is not None else {}),
                }

    def _command(self, command: Json, due: float = 0.0) -> None:
        self._ids += 1
        command = {**command, "id": self._ids}
        self._unanswered[self._ids] = command
        self._push(due, command)

    def _push(self, due: float, command: Json) -> None:
        self._ids += 1
        heapq.heappush(self._outbox, (due, self._ids, command))
