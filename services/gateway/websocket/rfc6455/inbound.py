"""RFC 6455 frames as a server reads them: masked, in pieces, control frames between. Pure.

`Inbound` is fed with whatever a socket gives and calls back for every whole message. It holds bytes
only while a frame or a message is incomplete, or while it was told to stop, since most connections
are idle most of the time. What one call may cost is bounded: one connection must not keep the event
loop from all the others.
"""

from __future__ import annotations

import codecs
import struct
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.websocket.rfc6455.frames import (
    BINARY,
    CLOSE,
    CONT,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    CloseCode,
)

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it was installed without its C extension
    from websockets.utils import apply_mask

# What reading a frame costs beside its payload, as so many bytes of payload.
FRAME_COST = 256
# Fragments of one message. Beyond it the smallest message would cost as much as the largest.
MAX_FRAGMENTS = 1024
_OPCODES = frozenset((CONT, TEXT, BINARY, CLOSE, PING, PONG))
_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))
# RFC 7692, 7.2.2: what the sender cut off the end of a deflated message.
_DEFLATE_END = b"\x00\x00\xff\xff"


class Receiver(ABC):
    """What is told about messages, in the order in which they came."""

    __slots__ = ()

    @abstractmethod
    def on_text(self, text: str) -> None: ...

    @abstractmethod
    def on_binary(self, data: bytes) -> None: ...

    @abstractmethod
    def on_ping(self, payload: bytes) -> None: ...

    @abstractmethod
    def on_pong(self, payload: bytes) -> None: ...

    @abstractmethod
    def on_close(self, code: int, payload: bytes) -> None:
        """The peer closes; `payload` is what has to be echoed, `code` 1005 when there was none."""

    @abstractmethod
    def on_violation(self, code: CloseCode, reason: str) -> None:
        """The peer broke the standard: it has to be told with this code. Nothing comes after."""


class _Violation(Exception):
    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass(slots=True, eq=False)
class Inbound:
    """One connection's incoming side."""

    # Of one message, unmasked and inflated; a larger one is refused (1009) as soon as its size is
    # known
    max_bytes: int
    deflate: bool = False  # whether permessage-deflate without context takeover was agreed upon
    max_fragments: int = MAX_FRAGMENTS  # of one message; one that has more is refused (1008)
    # Set by the owner, also from inside a callback: nothing more is read until `go_on`.
    stopped: bool = field(default=False, init=False)
    messages: int = field(default=0, init=False)  # how many were read whole
    # Of the call that reads now: what it has cost so far.
    _spent: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)
    # Of an incomplete frame: its bytes so far, and how many are needed to go on.
    _rest: bytearray | None = field(default=None, init=False)
    _need: int = field(default=0, init=False)
    # Of an incomplete message: the first frame's opcode, or CONT when there is none.
    _opcode: int = field(default=CONT, init=False)
    _deflated: bool = field(default=False, init=False)
    _fragments: int = field(default=0, init=False)
    # One growing buffer: a list of pieces would take forty times as much for one-byte pieces.
    _parts: bytearray | None = field(default=None, init=False)
    _decoder: codecs.IncrementalDecoder | None = field(default=None, init=False)

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun that has not ended, or bytes wait to be read."""
        return self._rest is not None or self._parts is not None

    def feed(self, data: bytes, to: Receiver, cost: int = sys.maxsize) -> bool:
        """Take what came in. After a close or a violation everything is ignored.

        Answers whether everything was read that can be. If not, because it was `stopped` or the
        frames cost more than `cost` bytes (`FRAME_COST` each, and their payloads), the rest is
        kept, and `go_on` reads further.
        """
        if self._ended:
            return True
        if self._rest is not None:
            self._rest += data
            if len(self._rest) < self._need:
                return True
            data, self._rest = bytes(self._rest), None
        try:
            at = self._read(data, to, cost)
        except _Violation as violation:
            self.end()
            to.on_violation(violation.code, violation.reason)
            return True
        if at == len(data):
            return True
        self._rest = bytearray(data[at:])
        return len(data) - at < self._need

    def go_on(self, to: Receiver, cost: int = sys.maxsize) -> bool:
        """Read on in what was kept; answers as `feed` does."""
        return self.feed(b"", to, cost) if self._rest is not None else True

    def _read(self, data: bytes, to: Receiver, cost: int) -> int:
        """Read whole frames; where the first begins that is still to be read."""
        at, end = 0, len(data)
        self._spent = 0
        while not self._ended:
            # While nothing is known of the next frame: it is there as soon as any byte of it is.
            self._need = 0
            if self.stopped or self._spent >= cost:
                break
            self._need = 2
            if end - at < 2:
                break
            first, second = data[at], data[at + 1]
            self._check(first, second)
            size = second & 0x7F
            head = at + 2
            if size > 125:
                width = 2 if size == 126 else 8
                self._need = 2 + width
                if end - head < width:
                    break
                size = int.from_bytes(data[head : head + width])
                head += width
            held = 0 if self._parts is None else len(self._parts)
            if size > self.max_bytes - held and not first & 0x08:
                raise _Violation(CloseCode.TOO_BIG, f"at most {self.max_bytes} bytes in a message")
            body = head + 4
            self._need = body - at + size
            if end - at < self._need:
                break
            payload = apply_mask(data[body : body + size], data[head:body])
            at = body + size
            self._spent += FRAME_COST + size
            self._dispatch(first, payload, to)
        # What comes after the end is nothing.
        return end if self._ended else at

    def _check(self, first: int, second: int) -> None:
        """Everything that the first two bytes can be wrong in."""
        opcode = first & 0x0F
        if opcode not in _OPCODES:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
        if not second & 0x80:
            raise _Violation(CloseCode.PROTOCOL_ERROR, "a client masks its frames")
        compressed = self.deflate and opcode in (TEXT, BINARY)
        if first & (0x30 if compressed else 0x70):
            raise _Violation(CloseCode.PROTOCOL_ERROR, "reserved bits")
        if opcode & 0x08:
            if not first & 0x80:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame in pieces")
            if second & 0x7F > 125:
                raise _Violation(CloseCode.PROTOCOL_ERROR, "a control frame has at most 125 bytes")
        elif (opcode == CONT) != (self._opcode != CONT):
            word = "nothing to continue" if opcode == CONT else "the message before has no end"
            raise _Violation(CloseCode.PROTOCOL_ERROR, word)

    def _dispatch(self, first: int, payload: bytes, to: Receiver) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            to.on_ping(payload)
        elif opcode == PONG:
            to.on_pong(payload)
        elif opcode == CLOSE:
            code = _close_code(payload)
            self.end()
            to.on_close(code, payload)
        elif first == 0x80 | TEXT:
            self.messages += 1
            to.on_text(_text(payload.decode))
        elif first == 0x80 | BINARY:
            self.messages += 1
            to.on_binary(payload)
        else:
            self._piece(first, opcode, payload, to)

    def _piece(self, first: int, opcode: int, payload: bytes, to: Receiver) -> None:
        """A piece of a message, or one that is deflated."""
        if opcode != CONT:
            self._opcode, self._parts, self._fragments = opcode, bytearray(), 0
            self._deflated = bool(first & 0x40)
            if opcode == TEXT and not self._deflated:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        assert self._parts is not None
        self._fragments += 1
        if self._fragments > self.max_fragments:
            raise _Violation(CloseCode.POLICY, f"at most {self.max_fragments} frames in a message")
        final = bool(first & 0x80)
        if self._decoder is not None:
            # Text is looked at piece by piece: what is broken ends here, not after a megabyte.
            decoder = self._decoder
            _text(lambda: decoder.decode(payload, final))
        self._parts += payload
        if not final:
            return
        opcode, whole = self._opcode, bytes(self._parts)
        deflated, self._deflated = self._deflated, False
        self._opcode, self._parts, self._decoder = CONT, None, None
        self.messages += 1
        if deflated:
            whole = self._inflated(whole)
            self._spent += len(whole)
        if opcode == TEXT:
            to.on_text(_text(whole.decode))
        else:
            to.on_binary(whole)

    def _inflated(self, data: bytes) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than is allowed tells a bomb from a message of just this size.
            whole = inflater.decompress(data + _DEFLATE_END, self.max_bytes + 1)
        except zlib.error as error:
            raise _Violation(CloseCode.INVALID_DATA, "not deflated") from error
        if len(whole) > self.max_bytes:
            raise _Violation(CloseCode.TOO_BIG, f"at most {self.max_bytes} bytes in a message")
        return whole

    def end(self) -> None:
        """Read nothing any more, also of what came in already."""
        self._ended = True
        self._rest = self._parts = self._decoder = None


def _text(decode: Callable[[], str]) -> str:
    try:
        return decode()
    except UnicodeDecodeError as error:
        raise _Violation(CloseCode.INVALID_DATA, "text is UTF-8") from error


def _close_code(payload: bytes) -> int:
    if not payload:
        return NO_CODE
    if len(payload) == 1:
        raise _Violation(CloseCode.PROTOCOL_ERROR, "half a close code")
    (code,) = struct.unpack_from("!H", payload)
    _text(payload[2:].decode)
    if code not in _CODES and not 3000 <= code < 5000:
        raise _Violation(CloseCode.PROTOCOL_ERROR, "not a close code")
    return int(code)
