"""The model answers as the real Valkey does: random commands are put to both.

Left out: the time (`TIME`, ids that the server makes, `min-idle-time` above nothing: two servers
ask at two times), how the real one lays streams out in memory (`radix-tree-*`), the line of a
script that an error names (Lua's), the order of `KEYS`, and which key is evicted first.
"""

from __future__ import annotations

import re
import socket
from io import BufferedIOBase, BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.redis_model.admin import ANSWERED, Admin
from tests.simulation.redis_model.answers import Blocked
from tests.simulation.redis_model.engine import Engine, Session
from tests.simulation.redis_model.random_commands import ALL, CONDITIONS, SCRIPTS, STREAMS, Words
from tests.simulation.redis_model.wire import written
from tools.embedded import ValkeyServer

_OF_A_SCRIPT = re.compile(rb" script: on @user_script:\d+\.$")
_LAYOUT = (b"radix-tree-keys", b"radix-tree-nodes")


def read(file: BufferedIOBase) -> Any:
    """An answer from the wire; the two kinds of nothing are one, as for redis-py."""
    line = file.readline()[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"$" | b"*" | b"%" | b"_" if rest in (b"-1", b""):
            return None
        case b"$":
            return file.read(int(rest) + 2)[:-2]
        case b"*":
            return [read(file) for _ in range(int(rest))]
        case b"%":
            return ("map", [(read(file), read(file)) for _ in range(int(rest))])
        case b"-":
            return ("error", _OF_A_SCRIPT.sub(b"", rest))
        case _:
            return line


class Real:
    """A real server, asked by one connection."""

    def __init__(self, server: ValkeyServer) -> None:
        self._socket = socket.create_connection((server.host, server.port))
        self._file = self._socket.makefile("rwb")

    def ask(self, words: Words) -> Any:
        self._file.write(b"*%d\r\n" % len(words))
        for word in words:
            self._file.write(b"$%d\r\n%b\r\n" % (len(word), word))
        self._file.flush()
        return read(self._file)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Model:
    """A model's engine, asked by one connection; it becomes a replica where it is told to."""

    def __init__(self) -> None:
        self.engine = Engine()
        self._admin = Admin(self.engine, 1)
        self._session = Session()

    def ask(self, words: Words) -> Any:
        if words[0] == b"REPLICAOF":
            self.engine.read_only = words[1:] != (b"NO", b"ONE")
            return None
        if words[0] in ANSWERED:
            answer = self._admin.answer(words[0], words[1:])
        else:
            answer = self.engine.run(self._session, words, 1_000_000, 1.0)
        found = None if isinstance(answer, Blocked) else answer
        return read(BytesIO(written(found, self._admin.version)))


def comparable(words: Words, answer: Any) -> Any:
    """What of an answer is compared."""
    if words[0] == b"REPLICAOF":
        return None
    if words[0] == b"KEYS" and isinstance(answer, list):
        return sorted(answer)
    return without_layout(answer)


def without_layout(answer: Any) -> Any:
    """Without how a stream lies in memory."""
    match answer:
        case ("map", pairs):
            kept = [(key, without_layout(value)) for key, value in pairs if key not in _LAYOUT]
            return ("map", kept)
        case [*parts]:
            flat = [without_layout(part) for part in parts]
            for name in _LAYOUT:
                if name in flat and parts[:1] == [b"length"]:
                    at = flat.index(name)
                    del flat[at : at + 2]
            return flat
    return answer


_RESET: list[Words] = [
    (b"REPLICAOF", b"NO", b"ONE"),
    (b"CONFIG", b"SET", b"maxmemory", b"0"),
    (b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction"),
    (b"FLUSHALL",),
]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("sequences", "examples"),
    [(STREAMS, 60), (SCRIPTS, 40), (CONDITIONS, 40), (ALL, 60)],
    ids=["streams", "scripts", "conditions", "all"],
)
async def test_random_commands_are_answered_as_the_real_server_answers_them(
    valkey_server: ValkeyServer,
    sequences: st.SearchStrategy[list[Words]],
    examples: int,
    version: int,
) -> None:
    other = Real(valkey_server)
    other.ask((b"HELLO", b"%d" % version))

    @settings(max_examples=examples)
    @given(sequences)
    def same(commands: list[Words]) -> None:
        for words in _RESET:
            other.ask(words)
        real, model = Real(valkey_server), Model()
        try:
            for asked in (real, model):
                asked.ask((b"HELLO", b"%d" % version))
            for words in commands:
                # What the server is told does not go through a transaction.
                told = other if words[0] in (b"REPLICAOF", b"CONFIG") else real
                wanted, answer = told.ask(words), model.ask(words)
                assert comparable(words, answer) == comparable(words, wanted), words
        finally:
            real.close()

    try:
        same()
    finally:
        other.close()
