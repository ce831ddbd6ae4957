"""The server's side of RESP, versions 2 and 3 (valkey.io, "RESP protocol description"). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.redis_model.answers import Answer, Refused, Status, Streams

_MOST_ARGUMENTS = 1024 * 1024


class ProtocolViolation(Exception):
    """What the client sent is not the protocol; `said` goes out as an error."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(said)


class Commands:
    """Splits what a client sends into commands, each a list of its name and its arguments.

    Attributes:
        largest: bytes of one argument.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._held = bytearray()
        self._arguments: list[bytes] = []
        # How many arguments are still to come.
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """The whole commands there are by now.

        Raises:
            ProtocolViolation: they cannot be read.
        """
        self._held += data
        at = 0
        try:
            while True:
                stop = self._held.find(b"\r\n", at)
                if stop < 0:
                    return
                if not self._missing:
                    self._missing = self._head(at, stop)
                    at = stop + 2
                    continue
                size = self._size(at, stop)
                begin, end = stop + 2, stop + 2 + size
                if len(self._held) < end + 2:
                    return
                self._arguments.append(bytes(self._held[begin:end]))
                at = end + 2
                self._missing -= 1
                if not self._missing:
                    whole, self._arguments = self._arguments, []
                    yield whole
        finally:
            del self._held[:at]

    def _head(self, at: int, stop: int) -> int:
        if self._held[at] != ord("*"):
            raise ProtocolViolation("ERR Protocol error: expected '*'")
        count = _number(self._held[at + 1 : stop])
        if count is None or count > _MOST_ARGUMENTS:
            raise ProtocolViolation("ERR Protocol error: invalid multibulk length")
        return max(0, count)

    def _size(self, at: int, stop: int) -> int:
        if self._held[at] != ord("$"):
            got = chr(self._held[at])
            raise ProtocolViolation(f"ERR Protocol error: expected '$', got '{got}'")
        size = _number(self._held[at + 1 : stop])
        if size is None or not 0 <= size <= self.largest:
            raise ProtocolViolation("ERR Protocol error: invalid bulk length")
        return size


def _number(text: bytearray) -> int | None:
    return int(text) if text.removeprefix(b"-").isdigit() else None


def written(answer: Answer, version: int) -> bytes:
    """An answer in the protocol's version 2 or 3."""
    parts: list[bytes] = []
    _write(answer, version, parts)
    return b"".join(parts)


def _write(answer: Answer, version: int, parts: list[bytes]) -> None:
    match answer:
        case Status():
            parts.append(b"+%b\r\n" % answer)
        case bytes():
            parts.append(b"$%d\r\n%b\r\n" % (len(answer), answer))
        case int():
            parts.append(b":%d\r\n" % answer)
        case None:
            parts.append(b"_\r\n" if version > 2 else b"$-1\r\n")
        case Refused():
            parts.append(b"-%b\r\n" % answer.said.encode(errors="surrogateescape"))
        case Streams() if version == 2:
            _write([list(pair) for pair in answer], version, parts)
        case Streams() | dict():
            pairs = list(answer.items() if isinstance(answer, dict) else answer)
            parts.append(b"%%%d\r\n" % len(pairs) if version > 2 else b"*%d\r\n" % (2 * len(pairs)))
            for pair in pairs:
                for one in pair:
                    _write(one, version, parts)
        case _:
            parts.append(b"*%d\r\n" % len(answer))
            for one in answer:
                _write(one, version, parts)
