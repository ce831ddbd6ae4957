"""How frames are written for one connection, and made once for all that are written alike. Pure.

Everything is framed plainly, one text frame a message. A connection's form turns that into what
its client takes: arrays of messages in one frame, compressed frames, or both.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.gateway.frames import array_frames, payloads_of

# Of messages in one frame for a client with `batch`.
ARRAY_BYTES = 16 * 1024


class Form:
    """One of few that exist; compare by identity.

    Attributes:
        arrays: the client takes frames that hold an array of messages.
    """

    __slots__ = ("arrays",)

    def __init__(self, *, arrays: bool) -> None:
        self.arrays = arrays

    def encode(self, pieces: Sequence[bytes]) -> bytes:
        """One buffer to write; `pieces` are whole plain frames, each one or more of them."""
        frames = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return array_frames(payloads_of(frames), ARRAY_BYTES) if self.arrays else frames


PLAIN = Form(arrays=False)
ARRAYS = Form(arrays=True)
