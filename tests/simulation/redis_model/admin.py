"""What a connection asks of itself and of the server: HELLO, AUTH, CLIENT, CONFIG, INFO, WAIT."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.simulation.redis_model.answers import OK, Answer, Refused, syntax_error, whole

if TYPE_CHECKING:
    from tests.simulation.redis_model.engine import Engine

VERSION = b"9.1.2"
ANSWERED = frozenset({b"HELLO", b"AUTH", b"CLIENT", b"CONFIG", b"INFO", b"SELECT"})


class Admin:
    """One connection's side of it.

    Attributes:
        version: of the protocol.
        admitted: it has said the password, or needs none.
    """

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        self.version = 2
        self.admitted = not engine.config.get(b"requirepass")

    def answer(self, name: bytes, arguments: Sequence[bytes]) -> Answer:
        try:
            return _ANSWERS[name](self, arguments)
        except Refused as refused:
            return refused

    def _hello(self, arguments: Sequence[bytes]) -> Answer:
        version, at = self.version, 1
        if arguments:
            said = "Protocol version is not an integer or out of range"
            version = whole(arguments[0], f"ERR {said}")
            if version not in (2, 3):
                raise Refused("NOPROTO unsupported protocol version")
        while at < len(arguments):
            match arguments[at].upper(), len(arguments) - at:
                case b"AUTH", left if left > 2:
                    self._auth(arguments[at + 1 : at + 3])
                    at += 3
                case b"SETNAME", left if left > 1:
                    at += 2
                case _:
                    raise Refused(f"ERR Syntax error in HELLO option '{arguments[at].decode()}'")
        if not self.admitted:
            raise Refused(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise "
                "the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the "
                "client and select the RESP protocol version at the same time"
            )
        self.version = version
        return {
            b"server": b"valkey",
            b"version": VERSION,
            b"proto": version,
            b"id": self._number,
            b"mode": b"standalone",
            b"role": b"replica" if self._engine.read_only else b"master",
            b"modules": [],
        }

    def _auth(self, arguments: Sequence[bytes]) -> Answer:
        wanted = self._engine.config.get(b"requirepass", b"")
        user, password = arguments if len(arguments) == 2 else (b"default", arguments[0])
        if not wanted and len(arguments) == 1:
            raise Refused(
                "ERR AUTH <password> called without any password configured for the default user. "
                "Are you sure your configuration is correct?"
            )
        if user != b"default" or (wanted and password != wanted):
            raise Refused("WRONGPASS invalid username-password pair or user is disabled.")
        self.admitted = True
        return OK

    def _client(self, arguments: Sequence[bytes]) -> Answer:
        match arguments[0].upper(), len(arguments):
            case (b"SETINFO", 3) | (b"SETNAME", 2):
                return OK
            case b"ID", 1:
                return self._number
        raise syntax_error()

    def _config(self, arguments: Sequence[bytes]) -> Answer:
        config = self._engine.config
        what, *rest = arguments
        if what.upper() == b"GET" and rest:
            asked = [pattern.decode() for pattern in rest]
            return {
                name: value
                for name, value in config.items()
                if any(fnmatch.fnmatchcase(name.decode(), pattern) for pattern in asked)
            }
        if what.upper() == b"SET" and rest and len(rest) % 2 == 0:
            names = [name.lower() for name in rest[::2]]
            for name in names:
                if name not in config and name != b"requirepass":
                    said = (
                        f"Unknown option or number of arguments for CONFIG SET - '{name.decode()}'"
                    )
                    raise Refused(f"ERR {said}")
            config.update(zip(names, rest[1::2], strict=True))
            self._engine.evict()
            return OK
        raise syntax_error()

    def _info(self, arguments: Sequence[bytes]) -> Answer:
        engine = self._engine
        role = "slave" if engine.read_only else "master"
        sections: dict[str, dict[str, object]] = {
            "server": {"valkey_version": VERSION.decode(), "server_mode": "standalone"},
            "clients": {"blocked_clients": engine.blocked},
            "memory": {
                "used_memory": engine.used_memory,
                "maxmemory": int(engine.config[b"maxmemory"]),
                "maxmemory_policy": engine.config[b"maxmemory-policy"].decode(),
            },
            "persistence": {"loading": int(engine.loading)},
            "replication": {"role": role},
        }
        asked = {one.decode().lower() for one in arguments}
        told = [
            f"# {name.title()}\r\n" + "".join(f"{key}:{value}\r\n" for key, value in held.items())
            for name, held in sections.items()
            if not asked or name in asked
        ]
        return "\r\n".join(told).encode()

    def _select(self, arguments: Sequence[bytes]) -> Answer:
        if whole(arguments[0]) != 0:
            raise Refused("ERR DB index is out of range")
        return OK


_ANSWERS = {
    b"HELLO": Admin._hello,
    b"AUTH": Admin._auth,
    b"CLIENT": Admin._client,
    b"CONFIG": Admin._config,
    b"INFO": Admin._info,
    b"SELECT": Admin._select,
}
