"""How frames are written for one connection, and made once for all that are written alike. Pure.

Everything is framed plainly, one text frame a message. A connection's encoding turns that into what
its client takes: arrays of messages in one frame, compressed frames, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.websocket.rfc6455.deflate import Deflater
from services.gateway.websocket.rfc6455.frames import array_frames, payloads_of

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
    """The encoding for these.

    Args:
        arrays: the client takes frames that hold an array of messages (`batch`).
        deflated: permessage-deflate was agreed on.
    """
    return _ENCODINGS[arrays, deflated]
