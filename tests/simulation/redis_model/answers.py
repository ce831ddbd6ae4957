"""What a command is answered, before it is written in either version of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# None, an int, bytes, Status, Refused, a list, a dict, Streams.
Answer = Any


class Refused(Exception):
    """An error: `said` is its whole text, the code first."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(said)


class Status(bytes):
    """A simple string."""


class Streams(list[tuple[bytes, Answer]]):
    """What was read of each stream, by its key: a map in RESP3 and a list of pairs in RESP2."""


@dataclass(slots=True, frozen=True)
class Blocked:
    """There is nothing yet: run `again` once one of `keys` has news, for at most `timeout_ms` (0:
    for ever); `for_a_group`: that a key is gone is news too.
    """

    again: Sequence[bytes]
    keys: tuple[bytes, ...]
    timeout_ms: int
    for_a_group: bool


OK = Status(b"OK")


def wrong_type() -> Refused:
    return Refused("WRONGTYPE Operation against a key holding the wrong kind of value")


def syntax_error() -> Refused:
    return Refused("ERR syntax error")


def whole(text: bytes, said: str = "ERR value is not an integer or out of range") -> int:
    """A number of an argument.

    Raises:
        Refused: it is none; with what is `said`.
    """
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or (digits != b"0" and digits[:1] == b"0") or text == b"-0":
        raise Refused(said)
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise Refused(said)
    return number
