"""permessage-deflate (RFC 7692): agreed upon, and as one server writes it to many clients. Pure.

With `server_no_context_takeover` no message refers to one before it, so that a message's compressed
frame is the same for every client, and is made once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from services.gateway.websocket.rfc6455.frames import compressed_frame, payloads_of, text_frame
from services.gateway.websocket.rfc6455.handshake import Header

# How far back a message may refer, as a power of two. Small: it is held twice for each client that
# reads, and messages are short.
WINDOW_BITS = 12
_MEMORY_LEVEL = 5
_LEVEL = 6
# Shorter messages hardly become shorter.
_LEAST = 64
# Of compressed frames and what they were made of.
_KEPT_BYTES = 4 * 1024 * 1024
# Ends what `Z_FULL_FLUSH` writes, and is left out of a message (RFC 7692, 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class Deflater:
    """Compresses frames; each distinct piece once, for as long as it is among the newest."""

    def __init__(self) -> None:
        # One for all messages: a full flush makes it forget, which is cheaper than a new one.
        self._zlib = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
        self._known: dict[bytes, bytes] = {}
        self._size = 0

    def shared(self, frames: bytes) -> bytes:
        """What `frames` makes of them, made for the first who asks and kept for others."""
        found = self._known.get(frames)
        if found is None:
            found = self.frames(frames)
            self._size += len(frames) + len(found)
            if self._size > _KEPT_BYTES:
                self._known.clear()
                self._size = len(frames) + len(found)
            self._known[frames] = found
        return found

    def frames(self, frames: bytes) -> bytes:
        """The same messages; those that become shorter by it are compressed."""
        return b"".join(map(self._frame, payloads_of(frames)))

    def _frame(self, payload: bytes) -> bytes:
        if len(payload) < _LEAST:
            return text_frame(payload)
        compress = self._zlib
        body = compress.compress(payload) + compress.flush(zlib.Z_FULL_FLUSH)
        body = body.removesuffix(_TAIL)
        return compressed_frame(body) if len(body) < len(payload) else text_frame(payload)


# No context in either direction: frames are shared by all clients, and none costs memory.
_FACTORY = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
)


def agree(headers: Iterable[Header]) -> tuple[Header, bool] | None:
    """The header that agrees to the first acceptable offer; None: there was none.

    And whether the client can look back as far as frames do that are made for all; who cannot is
    sent plain ones.
    """
    for name, value in headers:
        if name != b"sec-websocket-extensions":
            continue
        try:
            offers = parse_extension(value.decode("latin-1"))
        except InvalidHeader:
            # RFC 6455, 9.1: what is not understood may be left unanswered.
            continue
        for offered, parameters in offers:
            if offered != _FACTORY.name:
                continue
            try:
                agreed, extension = _FACTORY.process_request_params(parameters, [])
            except NegotiationError:
                continue
            answer = build_extension([(offered, agreed)])
            far = extension.local_max_window_bits >= WINDOW_BITS
            return (b"sec-websocket-extensions", answer.encode("ascii")), far
    return None
