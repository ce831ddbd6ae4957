"""What waits to be written to one client, and how its frames are written. Pure.

Two lanes. *Control* (pong, heartbeats, errors, rate limits, mode changes) is written first, so it
never waits behind data. *Data* is everything whose order matters inside a stream; it is bounded:
`offer` refuses what would exceed the limit, and the client is then taken off the live push.

Everything is framed plainly, one text frame a message, and made once for all that are written
alike. A connection's encoding turns that into what its client takes: arrays of messages in one
frame, compressed frames, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.gateway.websocket.rfc6455.deflate import Deflater
from services.gateway.websocket.rfc6455.frames import array_frames, payloads_of


@dataclass(slots=True, eq=False)
class Outbox:
    """Frames of one client."""

    limit: int  # bytes of data that may wait
    size: int = 0  # bytes of data that wait now
    control_size: int = 0  # bytes of control that wait now
    dirty: bool = False  # whether the owner already knows that there is something to write
    control: list[bytes] = field(default_factory=list)
    # Not a deque: an empty one takes 0.7 KiB, and most outboxes are empty most of the time.
    data: list[bytes] = field(default_factory=list)

    def offer(self, frames: bytes) -> bool:
        """Take data if it fits; False when it does not, and nothing was taken."""
        if self.size + len(frames) > self.limit:
            return False
        self.put(frames)
        return True

    def put(self, frames: bytes) -> None:
        """Take data that has to be sent in this place, also beyond the limit."""
        self.data.append(frames)
        self.size += len(frames)

    def put_control(self, frames: bytes) -> None:
        self.control.append(frames)
        self.control_size += len(frames)

    def clear(self) -> None:
        """Forget everything."""
        self.control, self.control_size = [], 0
        self.data.clear()
        self.size = 0

    def drain(self, max_bytes: int) -> list[bytes]:
        """All control and about `max_bytes` of data (at least one piece), in writing order."""
        parts, self.control, self.control_size = self.control, [], 0
        if self.size <= max_bytes:
            parts += self.data
            self.data.clear()
            self.size = 0
            return parts
        taken = taken_size = 0
        for part in self.data:
            if taken and taken_size + len(part) > max_bytes:
                break
            taken += 1
            taken_size += len(part)
        parts += self.data[:taken]
        del self.data[:taken]
        self.size -= taken_size
        return parts

    def __bool__(self) -> bool:
        return bool(self.control or self.data)


# Of messages in one frame for a client with `batch`.
ARRAY_BYTES = 16 * 1024


@dataclass(slots=True, eq=False)
class FrameEncoding:
    """One of the few of `encoding_of`; compare by identity."""

    _arrays: bool
    _deflater: Deflater | None

    def encode(self, pieces: Sequence[bytes]) -> bytes:
        """One buffer to write; `pieces` are whole plain frames, each one or more of them."""
        if self._arrays:
            payloads = [payload for piece in pieces for payload in payloads_of(piece)]
            frames = array_frames(payloads, ARRAY_BYTES)
            return frames if self._deflater is None else self._deflater.frames(frames)
        if self._deflater is not None:
            return b"".join(map(self._deflater.shared, pieces))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


_DEFLATER = Deflater()
_ENCODINGS = {
    (arrays, deflated): FrameEncoding(arrays, _DEFLATER if deflated else None)
    for arrays in (False, True)
    for deflated in (False, True)
}
PLAIN = _ENCODINGS[False, False]


def encoding_of(*, arrays: bool, deflated: bool) -> FrameEncoding:
    """Of frames that may hold an `array` of messages (`batch`), or by permessage-deflate."""
    return _ENCODINGS[arrays, deflated]
