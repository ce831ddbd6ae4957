"""One server without its sockets: what it runs, what it refuses, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.redis_model import groups, keys, streams
from tests.simulation.redis_model.answers import OK, Answer, Blocked, Refused, Status, whole
from tests.simulation.redis_model.database import Command, Database
from tests.simulation.redis_model.scripts import script_of, sha_of

COMMANDS: dict[bytes, Command] = keys.COMMANDS | streams.COMMANDS | groups.COMMANDS
# What a server answers while it loads its data, of what it knows.
_WHILE_LOADING = frozenset({b"MULTI", b"EXEC", b"DISCARD"})
_QUEUED = Status(b"QUEUED")
# What an empty server takes, in bytes.
_OWN_MEMORY = 1_000_000


@dataclass(slots=True)
class Session:
    """A connection's state."""

    queue: list[list[bytes]] | None = None
    # Something of the transaction was refused when it was queued.
    broken: bool = False


@dataclass(slots=True)
class _Written:
    """What was written in one step, and when by `time.monotonic`."""

    at_s: float
    now_us: int
    commands: list[Sequence[bytes]] = field(default_factory=list)


class Engine:
    """A server; `run` is called with the wall clock's time in microseconds, and with the true one
    in seconds, by which a disk is synced and a replica behind.

    Attributes:
        read_only: it is a replica.
        loading: it reads its data.
        blocked: how many connections wait for something to read.
    """

    def __init__(self) -> None:
        self.database = Database()
        self.read_only = False
        self.loading = False
        self.blocked = 0
        self.config: dict[bytes, bytes] = {
            b"maxmemory": b"0",
            b"maxmemory-policy": b"noeviction",
            b"proto-max-bulk-len": b"%d" % (512 * 1024 * 1024),
        }
        self._scripts: dict[bytes, bytes] = {}
        # All that was ever written: what is kept of it is what there is.
        self._log: list[_Written] = []
        self._step = _Written(0.0, 0)

    # -- what is kept

    def keep_until(self, at_s: float) -> None:
        """Forget what was written after a time: it was not synced, or not replicated."""
        kept = [step for step in self._log if step.at_s <= at_s]
        if len(kept) < len(self._log):
            self._log, self.database = kept, Database()
            for step in kept:
                for name, *arguments in step.commands:
                    COMMANDS[name].run(self.database, arguments, step.now_us)
            self.database.news.clear()

    def wipe(self) -> None:
        """Forget everything."""
        self._log.clear()
        self.database = Database()

    def restart(self) -> None:
        """Begin anew with the same data."""
        self._scripts.clear()
        self.database.news.clear()

    # -- running

    def run(self, session: Session, words: Sequence[bytes], now_us: int, at_s: float) -> Answer:
        """A command's answer; `Blocked` where it has to wait."""
        self._step = _Written(at_s, now_us)
        try:
            return self._dispatch(session, [words[0].upper(), *words[1:]])
        except Refused as refused:
            return refused
        finally:
            if self._step.commands:
                self._log.append(self._step)

    def _dispatch(self, session: Session, words: list[bytes]) -> Answer:
        name = words[0]
        try:
            self._check(session, words)
        except Refused:
            session.broken = True
            raise
        if session.queue is not None and name not in (b"MULTI", b"EXEC", b"DISCARD"):
            session.queue.append(words)
            return _QUEUED
        match name:
            case b"MULTI":
                if session.queue is not None:
                    session.broken = True
                    raise Refused("ERR Command 'multi' not allowed inside a transaction")
                session.queue, session.broken = [], False
                return OK
            case b"DISCARD" | b"EXEC":
                if session.queue is None:
                    raise Refused(f"ERR {name.decode()} without MULTI")
                queue, session.queue = session.queue, None
                if name == b"DISCARD":
                    return OK
                if session.broken:
                    said = "EXECABORT Transaction discarded because of previous errors."
                    raise Refused(said)
                self._check_all(queue)
                return [_now_or_never(self._try(one)) for one in queue]
        return self._execute(words)

    def _check(self, session: Session, words: list[bytes]) -> None:
        """Whether the server takes the command now, before it is queued or run."""
        name = words[0]
        command = COMMANDS.get(name, _OTHERS.get(name))
        if command is None:
            shown = "".join(f"'{_text(word)}' " for word in words[1:])
            raise Refused(f"ERR unknown command '{_text(name)}', with args beginning with: {shown}")
        if not command.takes(len(words)):
            said = f"ERR wrong number of arguments for '{_text(name.lower())}' command"
            raise Refused(said)
        self.evict()
        self._check_condition(words)

    def _check_all(self, queue: list[list[bytes]]) -> None:
        """Whether the server takes by now what it took when it was queued."""
        try:
            for words in queue:
                self._check_condition(words)
        except Refused as refused:
            said = f"EXECABORT Transaction discarded because of: {refused.said}"
            raise Refused(said) from None

    def _check_condition(self, words: list[bytes]) -> None:
        name = words[0]
        command = COMMANDS.get(name, _OTHERS.get(name))
        assert command is not None
        if command.grows and not (name == b"XGROUP" and words[1].upper() != b"CREATE"):
            self._check_memory()
        if command.writes:
            self._check_writable()
        if self.loading and name not in _WHILE_LOADING:
            raise Refused("LOADING Valkey is loading the dataset in memory")

    def _try(self, words: list[bytes]) -> Answer:
        try:
            return self._execute(words)
        except Refused as refused:
            return refused

    def _execute(self, words: list[bytes]) -> Answer:
        name, *arguments = words
        match name:
            case b"PING":
                return arguments[0] if arguments else Status(b"PONG")
            case b"EVAL":
                return self._eval(arguments[0], arguments[1:])
            case b"EVALSHA":
                text = self._scripts.get(arguments[0].lower())
                if text is None:
                    raise Refused("NOSCRIPT No matching script.")
                return self._eval(text, arguments[1:])
            case b"SCRIPT":
                if len(arguments) != 2 or arguments[0].upper() != b"LOAD":
                    raise Refused("ERR unknown subcommand of SCRIPT")
                script_of(arguments[1])
                sha = sha_of(arguments[1]).encode()
                self._scripts[sha] = arguments[1]
                return sha
        answer = COMMANDS[name].run(self.database, arguments, self._step.now_us)
        if COMMANDS[name].writes and not isinstance(answer, Blocked):
            self._step.commands.append(words)
        return answer

    # -- scripts

    def _eval(self, text: bytes, arguments: Sequence[bytes]) -> Answer:
        count = whole(arguments[0])
        if count < 0:
            raise Refused("ERR Number of keys can't be negative")
        if count > len(arguments) - 1:
            raise Refused("ERR Number of keys can't be greater than number of args")
        script = script_of(text)
        self._scripts[sha_of(text).encode()] = text
        full = self._full()
        before = len(self._step.commands)

        def call(*words: bytes) -> Answer:
            command = COMMANDS[words[0]]
            if command.writes:
                self._check_writable()
            # A script that has begun to write may end what it does.
            if command.grows and full and len(self._step.commands) == before:
                raise _out_of_memory()
            return self._execute(list(words))

        try:
            return script(call, arguments[1 : 1 + count], arguments[1 + count :])
        except Refused as refused:
            raise Refused(f"{refused.said} script: on @user_script:0.") from None

    # -- what is refused

    @property
    def used_memory(self) -> int:
        """In bytes, about."""
        return self.database.bytes + _OWN_MEMORY

    def _full(self) -> bool:
        most = int(self.config[b"maxmemory"])
        return bool(most) and not self.read_only and self.used_memory > most

    def _check_memory(self) -> None:
        if self._full():
            raise _out_of_memory()

    def evict(self) -> None:
        """Delete keys until the others have room, where that is the policy."""
        if not self.config[b"maxmemory-policy"].startswith(b"allkeys-") or self.loading:
            return
        while self._full() and self.database.values:
            gone = next(iter(self.database.values))
            self.database.remove(gone)
            step = _Written(self._step.at_s, self._step.now_us, [[b"DEL", gone]])
            self._log.append(step)

    def _check_writable(self) -> None:
        if self.read_only:
            raise Refused("READONLY You can't write against a read only replica.")


_OTHERS = {
    name: Command(lambda _database, _arguments, _now_us: None, arity)
    for name, arity in {
        b"PING": -1,
        b"MULTI": 1,
        b"EXEC": 1,
        b"DISCARD": 1,
        b"EVAL": -3,
        b"EVALSHA": -3,
        b"SCRIPT": -2,
    }.items()
}


def _text(word: bytes) -> str:
    return word.decode(errors="surrogateescape")


def _out_of_memory() -> Refused:
    return Refused("OOM command not allowed when used memory > 'maxmemory'.")


def _now_or_never(answer: Answer) -> Answer:
    """In a transaction nobody waits."""
    return None if isinstance(answer, Blocked) else answer
