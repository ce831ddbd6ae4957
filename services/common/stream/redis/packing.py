"""Commands in Redis' own protocol, put together by hand where there are many arguments. Pure.

redis-py looks at each argument several times, 4 µs for each stored record; what a publisher and a
group send by the thousand is put together here in a tenth of that. Connecting, sending and answers
stay redis-py's: it is handed a `Packed` in place of arguments (see `client.py`).
"""

from __future__ import annotations

from collections.abc import Iterable


class Packed:
    """A whole command as it is sent."""

    __slots__ = ("data",)

    def __init__(self, count: int, *parts: bytes) -> None:
        """`count` is the number of arguments that `parts` hold, the command's name among them."""
        self.data = b"".join((b"*%d\r\n" % count, *parts))


def pack(arguments: Iterable[bytes | str | float]) -> bytes:
    """Arguments, one after the other."""
    return b"".join([_pack(argument) for argument in arguments])


def _pack(argument: bytes | str | float) -> bytes:
    data = argument if isinstance(argument, bytes) else str(argument).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def pack_record(prefix: bytes, identity: bytes, payload: bytes, headers: bytes) -> bytes:
    """Three arguments, behind `prefix`, which holds packed ones."""
    return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        prefix,
        len(identity),
        identity,
        len(payload),
        payload,
        len(headers),
        headers,
    )
