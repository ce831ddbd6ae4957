"""Commands on streams, but for those on groups."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.redis_model.answers import (
    Answer,
    Blocked,
    Refused,
    Streams,
    syntax_error,
    whole,
)
from tests.simulation.redis_model.database import Command, Database
from tests.simulation.redis_model.stream import LAST, Id, Stream, after, read_bound, read_id


def entry(stream: Stream, identity: Id) -> Answer:
    """An entry as answers have it; None in place of the fields of one that is gone."""
    return [identity.written(), stream.entries.get(identity)]


# -- adding and trimming


class _Bound:
    """MAXLEN or MINID of an XADD or an XTRIM, read from the arguments at `at`; always exact."""

    def __init__(self, arguments: Sequence[bytes], at: int) -> None:
        self.by_length = arguments[at].upper() == b"MAXLEN"
        if len(arguments) > at + 1 and arguments[at + 1] == b"=":
            at += 1
        if len(arguments) <= at + 1:
            raise syntax_error()
        text = arguments[at + 1]
        self.behind = at + 2
        self.length, self.first = 0, Id(0, 0)
        if self.by_length:
            self.length = whole(text)
            if self.length < 0:
                raise Refused("ERR The MAXLEN argument must be >= 0.")
        else:
            self.first = read_id(text)

    def trim(self, stream: Stream) -> int:
        if self.by_length:
            return stream.drop_first(len(stream.ids) - self.length)
        return stream.drop_before(self.first)


def _xadd(database: Database, arguments: Sequence[bytes], now_us: int) -> Answer:
    key = arguments[0]
    at, makes, bound = 1, True, None
    while at < len(arguments):
        option = arguments[at].upper()
        if option == b"NOMKSTREAM":
            at, makes = at + 1, False
        elif option in (b"MAXLEN", b"MINID"):
            if bound is not None:
                said = "MAXLEN and MINID options at the same time are not compatible"
                raise Refused(f"ERR syntax error, {said}")
            bound = _Bound(arguments, at)
            at = bound.behind
        else:
            break
    asked, fields = arguments[at], list(arguments[at + 1 :])
    # What is no id is said before it is looked what the key holds.
    made = asked == b"*" or asked.endswith(b"-*")
    nothing = asked != b"*" and read_id(asked.removesuffix(b"-*")) == Id(0, 0) and not made
    if not fields or len(fields) % 2:
        raise Refused("ERR wrong number of arguments for 'xadd' command")
    if nothing:
        raise Refused("ERR The ID specified in XADD must be greater than 0-0")
    stream = database.find(key, Stream)
    if stream is None and not makes:
        return None
    identity = (stream or Stream()).next_id(asked, now_us // 1000)
    stream = database.get_or_make(key, Stream)
    stream.add(identity, fields)
    if bound is not None:
        bound.trim(stream)
    database.news[key] = True
    return identity.written()


def _xtrim(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    if arguments[1].upper() not in (b"MAXLEN", b"MINID"):
        raise syntax_error()
    bound = _Bound(arguments, 1)
    if bound.behind != len(arguments):
        raise syntax_error()
    stream = database.find(arguments[0], Stream)
    return 0 if stream is None else bound.trim(stream)


# -- reading


def _xlen(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    stream = database.find(arguments[0], Stream)
    return 0 if stream is None else len(stream.ids)


def _xrange(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return _range(database, arguments[0], (arguments[1], arguments[2]), arguments[3:], newest=False)


def _xrevrange(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return _range(database, arguments[0], (arguments[2], arguments[1]), arguments[3:], newest=True)


def _range(
    database: Database,
    key: bytes,
    ends: tuple[bytes, bytes],
    options: Sequence[bytes],
    *,
    newest: bool,
) -> Answer:
    first = read_bound(ends[0], first=True)
    last = read_bound(ends[1], first=False)
    count: int | None = None
    if options:
        if len(options) != 2 or options[0].upper() != b"COUNT":
            raise syntax_error()
        count = max(0, whole(options[1]))
    stream = database.find(key, Stream)
    if stream is None:
        return []
    if count == 0:
        return None
    found = (stream.newest_between if newest else stream.between)(first, last, count)
    return [entry(stream, identity) for identity in found]


class Reading:
    """The arguments of an XREAD, or of an XREADGROUP behind its own.

    Attributes:
        block_ms: for how long to wait where there is nothing; None for not at all.
        places: behind which id each stream is read, as it is written.
    """

    def __init__(self, arguments: Sequence[bytes], *, name: str) -> None:
        self.count: int | None = None
        self.block_ms: int | None = None
        self.no_ack = False
        at = 0
        while at < len(arguments) and (option := arguments[at].upper()) != b"STREAMS":
            if option == b"NOACK" and name == "xreadgroup":
                self.no_ack = True
                at += 1
                continue
            if at + 1 >= len(arguments) or option not in (b"COUNT", b"BLOCK"):
                raise syntax_error()
            if option == b"COUNT":
                # 0 and less mean all.
                self.count = max(0, whole(arguments[at + 1])) or None
            else:
                said = "ERR timeout is not an integer or out of range"
                self.block_ms = whole(arguments[at + 1], said)
                if self.block_ms < 0:
                    raise Refused("ERR timeout is negative")
            at += 2
        if at >= len(arguments):
            raise syntax_error()
        self._head = arguments[: at + 1]
        streams = arguments[at + 1 :]
        if not streams or len(streams) % 2:
            raise Refused(
                f"ERR Unbalanced '{name}' list of streams: for each stream key an ID or "
                f"'{'$' if name == 'xread' else '>'}' must be specified."
            )
        half = len(streams) // 2
        self.keys, self.places = tuple(streams[:half]), list(streams[half:])

    def blocked(self, before: Sequence[bytes], *, for_a_group: bool) -> Blocked | None:
        """What is answered where there is nothing; `before` are the words before these."""
        if self.block_ms is None:
            return None
        again = [*before, *self._head, *self.keys, *self.places]
        return Blocked(again, self.keys, self.block_ms, for_a_group)


def _xread(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    asked = Reading(arguments, name="xread")
    streams: list[Stream | None] = []
    places: list[Id] = []
    # One after the other, as it shows in which of two errors is told.
    for number, key in enumerate(asked.keys):
        stream = database.find(key, Stream)
        streams.append(stream)
        if asked.places[number] == b"$":
            place = Id(0, 0) if stream is None else stream.last
            asked.places[number] = place.written()
        elif asked.places[number] == b">":
            raise Refused(
                "ERR The > ID can be specified only when calling XREADGROUP using the GROUP "
                "<group> <consumer> option."
            )
        places.append(read_id(asked.places[number]))
    found = Streams()
    for key, stream, place in zip(asked.keys, streams, places, strict=True):
        if stream is not None and place < stream.last:
            given = stream.between(after(place), LAST, asked.count)
            if given:
                found.append((key, [entry(stream, identity) for identity in given]))
    return found or asked.blocked([b"XREAD"], for_a_group=False)


def _xinfo(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    what, key = arguments[0].upper(), arguments[1]
    stream = database.find(key, Stream)
    if stream is None:
        raise Refused("ERR no such key")
    if what == b"GROUPS":
        return [
            {
                b"name": name,
                b"consumers": len(group.consumers),
                b"pending": len(group.pending),
                b"last-delivered-id": group.last.written(),
                b"entries-read": group.read,
                b"lag": stream.unread_by(group),
            }
            for name, group in sorted(stream.groups.items())
        ]
    if what != b"STREAM" or len(arguments) > 2:
        raise syntax_error()
    ends = [entry(stream, identity) for identity in (*stream.ids[:1], *stream.ids[-1:])]
    return {
        b"length": len(stream.ids),
        b"last-generated-id": stream.last.written(),
        b"max-deleted-entry-id": b"0-0",
        b"entries-added": stream.added,
        b"recorded-first-entry-id": stream.first.written(),
        b"groups": len(stream.groups),
        b"first-entry": ends[0] if ends else None,
        b"last-entry": ends[-1] if ends else None,
    }


COMMANDS = {
    b"XADD": Command(_xadd, -5, writes=True, grows=True),
    b"XTRIM": Command(_xtrim, -4, writes=True),
    b"XLEN": Command(_xlen, 2),
    b"XRANGE": Command(_xrange, -4),
    b"XREVRANGE": Command(_xrevrange, -4),
    b"XREAD": Command(_xread, -4),
    b"XINFO": Command(_xinfo, -3),
}
