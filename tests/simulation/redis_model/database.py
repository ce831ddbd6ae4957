"""The keys and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.simulation.redis_model.answers import Answer, wrong_type
from tests.simulation.redis_model.stream import Stream


class Hash(dict[bytes, bytes]):
    """Values by field."""


class SortedSet(dict[bytes, float]):
    """Scores by member."""

    def between(
        self, lowest: Callable[[float], bool], highest: Callable[[float], bool]
    ) -> list[bytes]:
        """The members whose score passes both, by score and then by name."""
        found = [
            (score, member) for member, score in self.items() if lowest(score) and highest(score)
        ]
        return [member for _score, member in sorted(found)]


Value = bytes | Hash | SortedSet | Stream
_KINDS: dict[type, bytes] = {bytes: b"string", Hash: b"hash", SortedSet: b"zset", Stream: b"stream"}


class Database:
    """Database 0.

    Attributes:
        news: the keys that somebody may wait for, since it was looked at last: True where something
            came to a stream, False where the key itself is another or gone.
    """

    def __init__(self) -> None:
        self.values: dict[bytes, Value] = {}
        self.news: dict[bytes, bool] = {}

    def find[V: (bytes, Hash, SortedSet, Stream)](self, key: bytes, kind: type[V]) -> V | None:
        """What a key holds.

        Raises:
            Refused: it holds something else.
        """
        found = self.values.get(key)
        if found is None or isinstance(found, kind):
            return found
        raise wrong_type()

    def get_or_make[V: (Hash, SortedSet, Stream)](self, key: bytes, kind: type[V]) -> V:
        """What a key holds, empty where it held nothing.

        Raises:
            Refused: it holds something else.
        """
        found = self.find(key, kind)
        if found is None:
            found = kind()
            self.values[key] = found
        return found

    def put(self, key: bytes, value: bytes) -> None:
        if isinstance(self.values.get(key), Stream):
            self.news[key] = False
        self.values[key] = value

    def remove(self, key: bytes) -> bool:
        if self.values.pop(key, None) is None:
            return False
        self.news[key] = False
        return True

    def kind(self, key: bytes) -> bytes:
        found = self.values.get(key)
        return b"none" if found is None else _KINDS[type(found)]

    @property
    def bytes(self) -> int:
        """About how much memory the values take."""
        return sum(len(key) + _size(value) for key, value in self.values.items())


def _size(value: Value) -> int:
    match value:
        case bytes():
            return len(value)
        case Stream():
            return value.bytes
        case Hash():
            return sum(len(field) + len(held) for field, held in value.items())
        case SortedSet():
            return sum(len(member) + 8 for member in value)


@dataclass(slots=True, frozen=True)
class Command:
    """How a command is run: with its arguments behind the name and the time in microseconds.

    `arity` is how many words it has with its name, or at least that many where it is negative.
    """

    run: Callable[[Database, Sequence[bytes], int], Answer]
    arity: int
    writes: bool = False
    # It takes memory: refused when there is none.
    grows: bool = False

    def takes(self, words: int) -> bool:
        return words == self.arity if self.arity > 0 else words >= -self.arity
