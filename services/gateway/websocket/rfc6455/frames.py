"""RFC 6455 frames as a server writes them: unmasked and final. Pure.

A message is framed once and the same bytes are written to every client that gets it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# What stands for a close frame without a code.
NO_CODE = 1005
_FIN = 0x80
_FIN_TEXT = _FIN | TEXT
# RSV1: the payload is compressed (RFC 7692).
_COMPRESSED = 0x40


class CloseCode(IntEnum):
    """Every code with which a gateway closes; docs/protocol.md tells clients why."""

    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012


def text_frame(payload: bytes) -> bytes:
    """One unfragmented text frame; `payload` is UTF-8."""
    return _frame(_FIN_TEXT, payload)


def compressed_frame(payload: bytes) -> bytes:
    """One unfragmented text frame whose `payload` permessage-deflate made."""
    return _frame(_FIN_TEXT | _COMPRESSED, payload)


def frame(opcode: int, payload: bytes) -> bytes:
    """One unfragmented frame of any kind."""
    return _frame(_FIN | opcode, payload)


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; with `NO_CODE` an empty one."""
    if code == NO_CODE:
        return frame(CLOSE, b"")
    # A control frame has at most 125 bytes, and what is cut must still be text.
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return frame(CLOSE, struct.pack("!H", code) + text)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def text_frames(payloads: Iterable[bytes]) -> bytes:
    """The frames of several messages, one after the other."""
    return b"".join(map(text_frame, payloads))


def array_frames(payloads: Iterable[bytes], most: int) -> bytes:
    """Frames that hold JSON arrays of the messages, in order, each of about `most` bytes.

    A message that stands alone is sent as it is. Bounded, because a client gets nothing of a frame
    whose end is cut off: on a bad line one frame for all would never get through.
    """
    frames: list[bytes] = []
    group: list[bytes] = []
    size = 0
    for payload in payloads:
        if group and size + len(payload) > most:
            frames.append(_array_frame(group))
            group, size = [], 0
        group.append(payload)
        size += len(payload) + 1
    if group:
        frames.append(_array_frame(group))
    return b"".join(frames)


def _array_frame(group: list[bytes]) -> bytes:
    return text_frame(group[0] if len(group) == 1 else b"[" + b",".join(group) + b"]")


def payloads_of(frames: bytes) -> list[bytes]:
    """The messages inside bytes made by `text_frame`; the way back, for writers that frame anew."""
    found: list[bytes] = []
    at = 0
    while at < len(frames):
        size = frames[at + 1]
        at += 2
        if size == 126:
            (size,) = struct.unpack_from("!H", frames, at)
            at += 2
        elif size == 127:
            (size,) = struct.unpack_from("!Q", frames, at)
            at += 8
        found.append(frames[at : at + size])
        at += size
    return found
