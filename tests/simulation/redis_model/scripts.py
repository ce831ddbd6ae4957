"""What the adapter's scripts mean, by the SHA-1 of their text: any other text is not known here.

Who changes a script changes its twin here, and the differential test tells whether it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from tests.simulation.redis_model.answers import Answer, Refused

type Call = Callable[..., Any]
type Script = Callable[[Call, Sequence[bytes], Sequence[bytes]], Answer]


class UnknownScript(Exception):
    """Nobody has told this model what a script means."""

    def __init__(self, text: bytes) -> None:
        self.sha = sha_of(text)
        super().__init__(f"script {self.sha}: {text.decode(errors='replace')}")


def sha_of(text: bytes) -> str:
    return sha1(text, usedforsecurity=False).hexdigest()


def _store(call: Call, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Answer:
    """`store_script._STORE`."""
    if call(b"GET", keys[0]) != arguments[0]:
        return -1
    announcements, marks = int(arguments[2]), int(arguments[3])
    if arguments[2] == b"0" and call(b"XLEN", keys[1]) == 0:
        return -1
    at = 4
    for _ in range(announcements):
        call(b"XADD", keys[1], b"*", b"s", arguments[at], b"e", arguments[at + 1])
        at += 2
    for _ in range(marks):
        _tried(call, b"ZADD", arguments[at], arguments[1], arguments[at + 1])
        at += 2
    known, absent = 0, []
    for number in range((len(arguments) - at) // 4):
        stream, identity, payload, headers = arguments[at : at + 4]
        key = keys[int(stream) - 1]
        more = (b"h", headers) if headers else ()
        done = _tried(call, b"XADD", key, identity, b"p", payload, *more)
        if isinstance(done, Refused):
            if "equal or smaller" not in done.said:
                return [-2, number, done.said.encode(errors="surrogateescape")]
            known += 1
            if not call(b"XRANGE", key, identity, identity):
                absent += [number, call(b"HGET", keys[2], key) or b""]
        at += 4
    return [known, *absent] if absent else known


def _trim(call: Call, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Answer:
    """`logs._TRIM`."""
    stream, marks, trimmed = keys
    limit = arguments[0]
    found = call(b"ZREVRANGEBYSCORE", marks, limit, b"-inf", b"LIMIT", b"0", b"1")
    if not found:
        return 0
    last = call(b"XREVRANGE", stream, b"(" + found[0], b"-", b"COUNT", b"1")
    call(b"ZREMRANGEBYSCORE", marks, b"-inf", b"(" + limit)
    if not last:
        return 0
    call(b"HSET", trimmed, stream, last[0][0])
    return call(b"XTRIM", stream, b"MINID", b"=", found[0])


def _tried(call: Call, *command: bytes) -> Answer:
    try:
        return call(*command)
    except Refused as refused:
        return refused


_BY_SHA: dict[str, Script] = {
    "5e07262179ebe221585fac8cab84beaeadd76f43": _store,
    "65349026e828167afdefc92c7114095aa3633830": _trim,
}


def script_of(text: bytes) -> Script:
    """What a script's text means.

    Raises:
        UnknownScript: nobody has said.
    """
    try:
        return _BY_SHA[sha_of(text)]
    except KeyError:
        raise UnknownScript(text) from None
