"""The server's side of the NATS protocol (docs.nats.io, "Client Protocol"). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SECOND_NS = 1_000_000_000
# Subjects and headers may be any bytes; those that are no UTF-8 come out as they went in.
_ODD = "surrogateescape"


@dataclass(slots=True, frozen=True)
class Command:
    """A line of a client; a publish has its headers (a whole block, or empty) and its payload."""

    verb: str
    arguments: tuple[str, ...]
    headers: bytes = b""
    payload: bytes = b""


class ProtocolViolation(Exception):
    """What the client sent is not the protocol; `said` goes out as -ERR."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(said)


class Commands:
    """Splits what a client sends."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[Command]:
        """The whole commands there are by now.

        Raises:
            ProtocolViolation: a line cannot be read.
        """
        self._held += data
        at = 0
        try:
            while (stop := self._held.find(b"\r\n", at)) >= 0:
                verb, _, rest = self._held[at:stop].decode(errors=_ODD).partition(" ")
                verb = verb.upper()
                if verb not in ("PUB", "HPUB"):
                    at = stop + 2
                    # CONNECT has one argument, with spaces in it.
                    yield Command(verb, (rest,) if verb == "CONNECT" else tuple(rest.split()))
                    continue
                arguments = rest.split()
                size = int(arguments[-1])
                begin, end = stop + 2, stop + 2 + size
                if len(self._held) < end + 2:
                    break
                at = end + 2
                yield self._published(verb, arguments, self._held[begin:end])
        except (ValueError, IndexError) as error:
            raise ProtocolViolation("Unknown Protocol Operation") from error
        finally:
            self._held = self._held[at:]

    @staticmethod
    def _published(verb: str, arguments: list[str], body: bytes) -> Command:
        if verb == "PUB":
            return Command("PUB", tuple(arguments[:-1]), b"", body)
        head = int(arguments[-2])
        return Command("PUB", tuple(arguments[:-2]), body[:head], body[head:])


def message(subject: str, sid: str, reply: str, headers: bytes, payload: bytes) -> bytes:
    """A message as it is delivered to a subscription."""
    to = f"{subject} {sid} {reply} " if reply else f"{subject} {sid} "
    line = to.encode(errors=_ODD)
    if headers:
        size = len(headers) + len(payload)
        return b"HMSG %b%d %d\r\n%b%b\r\n" % (line, len(headers), size, headers, payload)
    return b"MSG %b%d\r\n%b\r\n" % (line, len(payload), payload)


def status(code: int, description: str = "", **fields: object) -> bytes:
    """A header block without a message: a status and what it tells (`Nats_Num_Pending=0`)."""
    line = f"NATS/1.0 {code} {description}".rstrip()
    return with_headers(line.encode() + b"\r\n\r\n", **fields)


def with_headers(block: bytes, **fields: object) -> bytes:
    """A header block (or none) with more fields behind its own."""
    added = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return (block[:-2] if block else b"NATS/1.0\r\n") + added.encode(errors=_ODD) + b"\r\n"


def header_of(block: bytes, name: str) -> str | None:
    """The first value of a header field; None without one."""
    begin = block.find(b"\r\n%b:" % name.encode())
    if begin < 0:
        return None
    begin += len(name) + 3
    return block[begin : block.index(b"\r\n", begin)].strip().decode(errors=_ODD)


def timestamp(time_ns: int) -> str:
    """A time as the server writes it; 0 is the year 1."""
    if not time_ns:
        return "0001-01-01T00:00:00Z"
    seconds, nanos = divmod(time_ns, _SECOND_NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanos:09}".rstrip("0").rstrip(".") + "Z"
