"""What is pushed in one turn of the event loop, kept once for all who get it. Pure.

A push costs the same for one client and for ten thousand: it is noted here, beside the clients it
is for. When the turn is written, clients that get the same pushes get the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, repeat

from services.common.stream import Position
from services.gateway.fanout.encoding import PLAIN, FrameEncoding
from services.gateway.fanout.live_streams import Subscriber, ViewGroup

# Distinct buffers that are kept; beyond it nearly every client has its own and sharing is over.
_KEPT = 256


class Push:
    """Records that directly follow `before`, for everyone who is in `audience` at that moment.

    Attributes:
        frames: the messages as plain frames.
        messages: how many.
        records: how many records they are sent for.
        receivers: clients that get it.
        bit: of its audience in this turn.
    """

    __slots__ = ("before", "bit", "frames", "group", "messages", "receivers", "records")

    def __init__(
        self, group: ViewGroup, frames: bytes, messages: int, before: Position, records: int
    ) -> None:
        self.group = group
        self.frames = frames
        self.messages = messages
        self.before = before
        self.records = records
        self.receivers = len(group.members)
        self.bit = 0


class PushBatch:
    """Pushes in the order they came.

    Attributes:
        size: bytes of all of them.
        individual: clients that were given a part of it on their own.
    """

    __slots__ = ("_bits", "_buffers", "individual", "pushes", "size")

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.size = 0
        self.individual: list[Subscriber] = []
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
        """Each client once, and the bits of its audiences in this turn."""
        (first, bit), *others = self._bits.items()
        if not others:
            return zip([*first.members], repeat(bit))
        found = dict.fromkeys(first.members, bit)
        for group, bit in others:
            for client in group.members:
                found[client] = found.get(client, 0) | bit
        return found.items()

    def buffer(self, bits: int, encoding: FrameEncoding) -> tuple[bytes, int]:
        """What clients with these audiences are written, and its size in plain frames."""
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
