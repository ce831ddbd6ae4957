"""A recorded feed as a market: the frames byte for byte, and the state folded from them. Pure."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from services.common.domain.book import BadLevel, Book
from services.common.times import micros
from tools.recording import Connected, Framed, Recording
from tools.simulator.clock import SECOND, iso6
from tools.simulator.market.products import Product, product
from tools.simulator.protocol.messages import Channel, Heartbeat, Match, Outgoing
from tools.simulator.venue import ProductState, Tape, ticker_of

# Marks a place at which the recorder's connection began anew.
CONNECTED = "connected"
_CHANNELS = {
    "snapshot": (Channel.LEVEL2_BATCH, Channel.LEVEL2),
    "l2update": (Channel.LEVEL2_BATCH, Channel.LEVEL2),
    "last_match": (Channel.MATCHES,),
    "match": (Channel.MATCHES, Channel.FULL),
    "heartbeat": (Channel.HEARTBEAT,),
    "ticker": (Channel.TICKER, Channel.TICKER_BATCH),
    "received": (Channel.FULL,),
    "open": (Channel.FULL,),
    "done": (Channel.FULL,),
    "change": (Channel.FULL,),
    "activate": (Channel.FULL,),
    "status": (Channel.STATUS,),
}
# Times further ahead of the frame before are not believed.
_LEAP_US = 86_400 * SECOND
_MAX_BEATS = 5
_REASON = 40


class BadCapture(Exception):
    """There is nothing in a recording that can be replayed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One recorded frame, or a new connection (`type` is CONNECTED).

    `at_us` is when it was received, or happened where nobody noted that; it never goes back along
    the recording.
    """

    at_us: int
    type: str
    product: str
    raw: bytes
    sequence: int | None = None
    trade: Match | None = None


@dataclass(frozen=True, slots=True)
class Capture:
    """The frames of a recording, and by reason how many lines are not among them."""

    frames: list[Frame]
    left_out: dict[str, int]


def load_capture(path: Path) -> Capture:
    """Read a recording of any form that `tools.recording` knows, in the order of arrival.

    Acknowledgements are left out, because each client gets its own; errors and unknown types,
    because nobody asked for them. Frames that cannot be read are sent as they were recorded.

    Raises:
        BadCapture: no message of the feed is in it, or nothing in it has a time.
        OSError: it cannot be read.
    """
    recording = Recording(path)
    frames: list[Frame] = []
    at_us = 0
    for number, line in recording:
        if isinstance(line, Connected):
            frames.append(Frame(at_us, CONNECTED, "", b""))
            continue
        frame = _frame(line, at_us)
        at_us = frame.at_us
        if frame.type not in _CHANNELS:
            recording.leave_out(f"type {frame.type}"[:_REASON], number)
        elif not frame.product and frame.type != Channel.STATUS:
            recording.leave_out("no_product", number)
        else:
            frames.append(frame)
    first = next((each.at_us for each in frames if each.at_us), None)
    if first is None:
        why = f" ({recording.first})" if recording.first else ""
        raise BadCapture(f"{path} holds no message of the feed with a time{why}")
    dated = [each if each.at_us else replace(each, at_us=first) for each in frames]
    return Capture(dated, dict(recording.left_out))


def _frame(line: Framed, at_us: int) -> Frame:
    message = msgspec.json.decode(line.body)
    if not isinstance(message, dict):
        return Frame(at_us, Channel.LEVEL3, "", line.body)
    kind, product, sequence = message["type"], message.get("product_id"), message.get("sequence")
    at = line.received_us
    # A last_match is dated by its trade, which may be long past.
    if at is None and kind != "last_match":
        at = micros(message.get("time"))
    # A time that leaps ahead of the recording is odd, and nobody should wait for it.
    if at is not None and (not at_us or at_us < at < at_us + _LEAP_US):
        at_us = at
    trade = None
    if kind in ("match", "last_match"):
        # One that cannot be read is sent all the same, and is no trade of ours.
        with contextlib.suppress(msgspec.ValidationError, TypeError):
            trade = msgspec.convert({**message, "type": "match"}, Match)
    return Frame(
        at_us,
        kind if isinstance(kind, str) else "",
        product if isinstance(product, str) else "",
        line.body,
        sequence if isinstance(sequence, int) else None,
        trade,
    )


class _Recorded:
    """One product as far as the replay has come."""

    def __init__(self) -> None:
        self.book: Book | None = None
        self.tape = Tape()
        self.sequence = 0
        self.time_us = 0
        # The trade before the first one told.
        self.told_after: int | None = None
        self._numbered = False

    def foresee(self, frame: Frame) -> None:
        """Learn from the frames to come, in order, how it stood before the first of them."""
        seed = frame.type == "last_match"
        if frame.trade is not None and self.told_after is None:
            self.told_after = frame.trade.trade_id - (not seed)
        if frame.sequence is not None and not seed and not self._numbered:
            self.sequence, self._numbered = max(0, frame.sequence - 1), True

    @property
    def last_trade_id(self) -> int:
        last = self.tape.last
        return last.trade_id if last is not None else self.told_after or 0

    def apply(self, frame: Frame) -> None:
        self.time_us = max(self.time_us, frame.at_us)
        self.sequence = max(self.sequence, frame.sequence or 0)
        if frame.trade is not None:
            self.tape.add(frame.trade)
        elif frame.type in ("snapshot", "l2update"):
            # A bad level is sent as it was recorded; only our own view of the book skips it.
            with contextlib.suppress(BadLevel, msgspec.ValidationError):
                self._apply_levels(frame)

    def _apply_levels(self, frame: Frame) -> None:
        levels = msgspec.json.decode(frame.raw, type=_Levels)
        if frame.type == "snapshot":
            book = Book()
            book.replace(levels.bids, levels.asks)
            self.book = book
        elif self.book is not None:
            self.book.apply(levels.changes)


class _Levels(msgspec.Struct):
    bids: list[list[str]] = []
    asks: list[list[str]] = []
    changes: list[list[str]] = []


class ReplayMarket:
    """Gives out recorded frames in order and knows the state they add up to.

    Where the recording has no tickers for a product, one is made from each match (without the
    24 h figures, which nobody recorded), so that the channel is not silent; where it has no
    heartbeats, they are made on whole seconds, as the venue would.

    With a `truth`, another recording of the same time that has more, the state is what that one
    adds up to: REST and heartbeats tell of what the first lacks.
    """

    def __init__(self, capture: Capture, truth: Capture | None = None) -> None:
        self._frames = capture.frames
        self.left_out = capture.left_out
        # Each product as it stood before the first frame, as far as later ones tell.
        recorded: defaultdict[str, _Recorded] = defaultdict(_Recorded)
        for frame in capture.frames:
            if frame.product:
                recorded[frame.product].foresee(frame)
        self._recorded = dict(recorded)
        self.products: list[Product] = [product(name) for name in self._recorded]
        self._truth = ReplayMarket(truth) if truth is not None else None
        self._with_ticker = {each.product for each in self._frames if each.type == "ticker"}
        with_beats = {each.product for each in self._frames if each.type == "heartbeat"}
        self._without_beats = [name for name in self._recorded if name not in with_beats]
        self.first_us = self._frames[0].at_us
        self._now = self.first_us
        self.position = 0
        self._begun = False

    @property
    def now_us(self) -> int:
        """The recording's clock: the time of the newest frame given out, or what `beat` made it."""
        return self._now

    @property
    def finished(self) -> bool:
        return self.position >= len(self._frames)

    @property
    def cut_due(self) -> bool:
        """Whether the next thing that was recorded is a new connection; `pass_cut` goes on."""
        return not self.finished and self._frames[self.position].type == CONNECTED

    def pass_cut(self) -> None:
        self.position += 1

    def begin(self) -> None:
        self._begun = True

    def progress(self) -> dict[str, object]:
        state = "finished" if self.finished else "running" if self._begun else "waiting"
        return {
            "state": state,
            "frames": len(self._frames),
            "position": self.position,
            "left_out": self.left_out,
        }

    def _known(self, product_id: str) -> _Recorded:
        """What is true of a product now."""
        if self._truth is not None and product_id in self._truth._recorded:  # noqa: SLF001 - one of its own kind
            return self._truth._recorded[product_id]  # noqa: SLF001 - as above
        return self._recorded[product_id]

    def state(
        self, product_id: str, *, orders: bool = False, depth: int | None = None
    ) -> ProductState:
        """The product as far as the replay has come. `orders` cannot be had from a recording."""
        del orders
        known = self._known(product_id)
        book = known.book or Book()
        return ProductState(
            product=product_id,
            time_us=known.time_us,
            sequence=known.sequence,
            # A recorded feed does not say how many orders a level holds.
            bids=[(price, size, 1) for price, size in book.bids(depth)],
            asks=[(price, size, 1) for price, size in book.asks(depth)],
            tape=known.tape,
            told_after=self._recorded[product_id].told_after,
        )

    def has_book(self, product_id: str) -> bool:
        return self._known(product_id).book is not None

    def take(self, count: int) -> list[Outgoing]:
        """The next `count` frames, whatever their time, but none behind a new connection."""
        return self._give(min(len(self._frames), self.position + count))

    def advance(self, to_us: int) -> list[Outgoing]:
        """The frames up to and including that time of the recording's clock, as `take`."""
        end = self.position
        while end < len(self._frames) and self._frames[end].at_us <= to_us:
            end += 1
        out = self._give(end)
        if not self.cut_due:
            self._beat(self._without_beats, to_us, out)
        return out

    def _give(self, end: int) -> list[Outgoing]:
        out: list[Outgoing] = []
        while self.position < end and not self.cut_due:
            frame = self._frames[self.position]
            self.position += 1
            self._beat(self._without_beats, frame.at_us, out)
            if self._truth is not None:
                self._truth.follow(frame.at_us)
            recorded = self._recorded.get(frame.product)
            if recorded is not None:
                recorded.apply(frame)
            out.append(Outgoing(_CHANNELS[frame.type], frame.product, frame.type, frame.raw))
            if frame.trade is not None and frame.product not in self._with_ticker:
                out.append(self._derived_ticker(frame.trade))
        return out

    def follow(self, to_us: int) -> None:
        """Come as far as that time, for the state's sake only."""
        while not self.finished and self._frames[self.position].at_us <= to_us:
            frame = self._frames[self.position]
            self.position += 1
            if frame.product:
                self._recorded[frame.product].apply(frame)

    def _derived_ticker(self, trade: Match) -> Outgoing:
        state = self.state(trade.product_id, depth=1)
        ticker = ticker_of(trade, {}, state.bids, state.asks)
        return Outgoing((Channel.TICKER, Channel.TICKER_BATCH), trade.product_id, "ticker", ticker)

    def _beat(self, names: Collection[str], to_us: int, out: list[Outgoing]) -> None:
        """Move the clock, with heartbeats of these products on whole seconds."""
        last = to_us // SECOND
        # A long pause of the recording is over in one step when the replay is not paced.
        for second in range(max(self._now // SECOND, last - _MAX_BEATS) + 1, last + 1):
            time = iso6(second * SECOND)
            out.extend(_heartbeat(name, self._known(name), time) for name in names)
        self._now = max(self._now, to_us)

    def waiting_beats(self) -> list[Outgoing]:
        """Heartbeats of the second in which the recording begins, for those who wait for it."""
        time = iso6(self.first_us // SECOND * SECOND)
        return [_heartbeat(name, known, time) for name, known in self._recorded.items()]

    def beat(self, to_us: int) -> list[Outgoing]:
        """Heartbeats of a market in which nothing happens any more, on whole seconds."""
        out: list[Outgoing] = []
        self._beat(self._recorded, to_us, out)
        return out


def _heartbeat(name: str, known: _Recorded, time: str) -> Outgoing:
    beat = Heartbeat(known.last_trade_id, name, known.sequence, time)
    return Outgoing((Channel.HEARTBEAT,), name, "heartbeat", beat)
