"""What is pushed in one turn of the event loop, written once for all who get it, and when. Pure.

A push costs the same for one client and for ten thousand: it is noted here, beside the clients it
is for. When the turn is written, at its end or at that of the flush window, clients that get the
same pushes get the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import NamedTuple

from services.common.stream import Position
from services.gateway.fanout.live_streams import Subscriber, ViewGroup
from services.gateway.fanout.outbox import PLAIN, FrameEncoding

# Distinct buffers that are kept; beyond it nearly every client has its own and sharing is over.
_KEPT = 256


@dataclass(slots=True, eq=False)
class Push:
    """Records that directly follow `before`, for everyone who is in `group` at that moment."""

    group: ViewGroup
    frames: bytes  # the messages as plain frames
    messages: int  # how many
    before: Position
    records: int  # how many records they are sent for
    receivers: int  # clients that get it
    bit: int = 0  # of its group in this turn


class PushBatch:
    """Pushes in the order they came."""

    __slots__ = ("_bits", "_buffers", "individual", "pushes", "size")

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.size = 0  # bytes of all of them
        self.individual: list[Subscriber] = []  # clients that were given a part of it on their own
        self._bits: dict[ViewGroup, int] = {}
        self._buffers: dict[tuple[int, FrameEncoding], tuple[bytes, int]] = {}

    def add(self, push: Push) -> None:
        push.bit = self._bits.setdefault(push.group, 1 << len(self._bits))
        self.pushes.append(push)
        self.size += len(push.frames)

    def after(self, count: int) -> Iterator[Push]:
        """All but the first `count`."""
        return islice(self.pushes, count, None)

    def receivers(self) -> Iterable[tuple[Subscriber, int]]:
        """Each client once, and the bits of its groups in this turn."""
        (first, bit), *others = self._bits.items()
        if not others:
            return zip([*first.members], repeat(bit))
        found = dict.fromkeys(first.members, bit)
        for group, bit in others:
            for client in group.members:
                found[client] = found.get(client, 0) | bit
        return found.items()

    def buffer(self, bits: int, encoding: FrameEncoding) -> tuple[bytes, int]:
        """What clients in these groups are written, and its size in plain frames."""
        if encoding is PLAIN and len(self.pushes) == 1:
            frames = self.pushes[0].frames
            return frames, len(frames)
        found = self._buffers.get((bits, encoding))
        if found is None:
            if len(self._buffers) >= _KEPT:
                self._buffers.clear()
            pieces = [push.frames for push in self.pushes if push.bit & bits]
            found = encoding.encode(pieces), sum(map(len, pieces))
            self._buffers[bits, encoding] = found
        return found

    def write(
        self,
        most: int,  # bytes that may be written to one client past its outbox
        # Hands a buffer to the kernel and tells how much of it was taken; or OSError.
        write: Callable[[int, bytes], int],
        # Called with a client that could not be written to, while the error is handled.
        failed: Callable[[Subscriber], None],
    ) -> list[Subscriber]:
        """Write to clients for which nothing waits, past their transports; answers the others.

        Those have to get it through their outbox.
        """
        others: list[Subscriber] = []
        mine, encoding, buffer, fits = 0, PLAIN, b"", False
        for client, bits in self.receivers():
            if not client.quick:
                others.append(client)
                continue
            try:
                if bits != mine or client.encoding is not encoding:
                    buffer, size = self.buffer(bits, client.encoding)
                    mine, encoding, fits = bits, client.encoding, size <= most
                if not fits:
                    others.append(client)
                    continue
                try:
                    sent = write(client.fd, buffer) if client.fd >= 0 else 0
                except OSError:
                    # It is full, or ending; its transport finds out which.
                    sent = 0
                if sent != len(buffer):
                    client.unsent(buffer, sent)
            except Exception:  # noqa: BLE001 - `failed` says it; it costs this client only
                failed(client)
        return others


class Turns(NamedTuple):
    """The event loop as the fan-out sees it."""

    # Calls back at the end of the event loop's turn.
    schedule: Callable[[Callable[[], None]], object]
    schedule_at: Callable[[float, Callable[[], None]], object]  # calls back at a time of `clock`
    clock: Callable[[], float]  # seconds, does not go back


@dataclass(slots=True)
class FlushSchedule:
    """Sees to it that `flush` is called once, however often it is asked for."""

    turns: Turns
    window: float  # pushes come at least so many seconds after those before; 0 is every turn
    flush: Callable[[], None]  # what is to be called
    flushing: bool = False  # it is to be called, or is running
    held: bool = False  # what is pushed waits for the end of the window
    _pushed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._pushed_at = -self.window

    def want_flush(self) -> None:
        """Something waits to be written or told: flush in this turn."""
        if not self.flushing:
            self.flushing = True
            self.turns.schedule(self.flush)

    def want_push(self) -> None:
        """Something was pushed: flush in this turn, or at the end of the window."""
        if not self.window:
            self.want_flush()
        elif not self.held:
            end = self._pushed_at + self.window
            if self.turns.clock() < end:
                self.held = True
                self.turns.schedule_at(end, self._on_window)
            else:
                self.want_flush()

    def pushed(self) -> None:
        """What was pushed is written: another window begins."""
        if self.window:
            self._pushed_at = self.turns.clock()

    def _on_window(self) -> None:
        self.held = False
        self.flush()
