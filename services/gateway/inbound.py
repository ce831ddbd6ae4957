"""RFC 6455 frames as a server reads them: masked, in pieces, control frames between. Pure.

`Inbound` is fed with whatever a socket gives and calls back for every whole message. It holds bytes
only while a frame or a message is incomplete, since most connections are idle most of the time.
"""

from __future__ import annotations

import codecs
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it was installed without its C extension
    from websockets.utils import apply_mask

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NO_CODE = 1005
PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009
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
    def on_violation(self, code: int, reason: str) -> None:
        """The peer broke the standard: it has to be told with this code. Nothing comes after."""


class _Violation(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Inbound:
    """One connection's incoming side.

    Args:
        max_bytes: of one message, unmasked and inflated; a larger one is refused (1009) as soon as
            its size is known.
        deflate: whether permessage-deflate without context takeover was agreed upon.
    """

    __slots__ = (
        "_decoder",
        "_deflate",
        "_deflated",
        "_ended",
        "_max",
        "_need",
        "_opcode",
        "_parts",
        "_rest",
        "_size",
    )

    def __init__(self, max_bytes: int, *, deflate: bool = False) -> None:
        self._max = max_bytes
        self._deflate = deflate
        self._ended = False
        # Of an incomplete frame: its bytes so far, and how many are needed to go on.
        self._rest: bytearray | None = None
        self._need = 0
        # Of an incomplete message: the first frame's opcode, or CONT when there is none.
        self._opcode = CONT
        self._deflated = False
        self._size = 0
        self._parts: list[bytes] | None = None
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes, to: Receiver) -> None:
        """Take what came in. After a close or a violation everything is ignored."""
        if self._ended:
            return
        if self._rest is not None:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data, self._rest = bytes(self._rest), None
        try:
            at = self._read(data, to)
        except _Violation as violation:
            self._end()
            to.on_violation(violation.code, violation.reason)
            return
        if at < len(data) and not self._ended:
            self._rest = bytearray(data[at:])

    def _read(self, data: bytes, to: Receiver) -> int:
        """Read all whole frames; where the first incomplete one begins."""
        at, end = 0, len(data)
        while not self._ended:
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
            if size > self._max - self._size and not first & 0x08:
                raise _Violation(TOO_BIG, f"at most {self._max} bytes in a message")
            body = head + 4
            self._need = body - at + size
            if end - at < self._need:
                break
            payload = apply_mask(data[body : body + size], data[head:body])
            at = body + size
            self._take(first, payload, to)
        return at

    def _check(self, first: int, second: int) -> None:
        """Everything that the first two bytes can be wrong in."""
        opcode = first & 0x0F
        if opcode not in _OPCODES:
            raise _Violation(PROTOCOL_ERROR, "reserved opcode")
        if not second & 0x80:
            raise _Violation(PROTOCOL_ERROR, "a client masks its frames")
        compressed = self._deflate and opcode in (TEXT, BINARY)
        if first & (0x30 if compressed else 0x70):
            raise _Violation(PROTOCOL_ERROR, "reserved bits")
        if opcode & 0x08:
            if not first & 0x80:
                raise _Violation(PROTOCOL_ERROR, "a control frame in pieces")
            if second & 0x7F > 125:
                raise _Violation(PROTOCOL_ERROR, "a control frame has at most 125 bytes")
        elif (opcode == CONT) != (self._opcode != CONT):
            word = "nothing to continue" if opcode == CONT else "the message before has no end"
            raise _Violation(PROTOCOL_ERROR, word)

    def _take(self, first: int, payload: bytes, to: Receiver) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            to.on_ping(payload)
        elif opcode == PONG:
            to.on_pong(payload)
        elif opcode == CLOSE:
            code = _close_code(payload)
            self._end()
            to.on_close(code, payload)
        elif first == 0x80 | TEXT:
            to.on_text(_text(payload.decode))
        elif first == 0x80 | BINARY:
            to.on_binary(payload)
        else:
            self._piece(first, opcode, payload, to)

    def _piece(self, first: int, opcode: int, payload: bytes, to: Receiver) -> None:
        """A piece of a message, or one that is deflated."""
        if opcode != CONT:
            self._opcode, self._parts = opcode, []
            self._deflated = bool(first & 0x40)
            if opcode == TEXT and not self._deflated:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
        assert self._parts is not None
        final = bool(first & 0x80)
        if self._decoder is not None:
            # Text is looked at piece by piece: what is broken ends here, not after a megabyte.
            decoder = self._decoder
            _text(lambda: decoder.decode(payload, final))
        self._parts.append(payload)
        self._size += len(payload)
        if not final:
            return
        opcode, whole = self._opcode, b"".join(self._parts)
        deflated, self._deflated = self._deflated, False
        self._opcode, self._parts, self._decoder, self._size = CONT, None, None, 0
        if deflated:
            whole = self._inflated(whole)
        if opcode == TEXT:
            to.on_text(_text(whole.decode))
        else:
            to.on_binary(whole)

    def _inflated(self, data: bytes) -> bytes:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than is allowed tells a bomb from a message of just this size.
            whole = inflater.decompress(data + _DEFLATE_END, self._max + 1)
        except zlib.error as error:
            raise _Violation(INVALID_DATA, "not deflated") from error
        if len(whole) > self._max:
            raise _Violation(TOO_BIG, f"at most {self._max} bytes in a message")
        return whole

    def _end(self) -> None:
        self._ended = True
        self._rest = self._parts = self._decoder = None


def _text(decode: Callable[[], str]) -> str:
    try:
        return decode()
    except UnicodeDecodeError as error:
        raise _Violation(INVALID_DATA, "text is UTF-8") from error


def _close_code(payload: bytes) -> int:
    if not payload:
        return NO_CODE
    if len(payload) == 1:
        raise _Violation(PROTOCOL_ERROR, "half a close code")
    (code,) = struct.unpack_from("!H", payload)
    _text(payload[2:].decode)
    if code not in _CODES and not 3000 <= code < 5000:
        raise _Violation(PROTOCOL_ERROR, "not a close code")
    return int(code)
