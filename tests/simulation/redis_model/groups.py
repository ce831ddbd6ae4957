"""Commands on consumer groups."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.redis_model.answers import (
    OK,
    Answer,
    Refused,
    Streams,
    syntax_error,
    whole,
)
from tests.simulation.redis_model.database import Command, Database
from tests.simulation.redis_model.group import Group
from tests.simulation.redis_model.stream import LAST, Id, Stream, after, read_bound, read_id
from tests.simulation.redis_model.streams import Reading, entry

# How many pending entries an XAUTOCLAIM looks at, for each that it may claim.
_LOOKS_AT = 10
_MEANINGLESS = (
    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of "
    "this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID "
    "would just return an empty result set."
)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _no_group(key: bytes, group: bytes) -> Refused:
    return Refused(f"NOGROUP No such key '{_text(key)}' or consumer group '{_text(group)}'")


def _find(database: Database, key: bytes, name: bytes) -> tuple[Stream, Group]:
    stream = database.find(key, Stream)
    group = None if stream is None else stream.groups.get(name)
    if stream is None or group is None:
        raise _no_group(key, name)
    return stream, group


def _xgroup(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    what = arguments[0].upper()
    if what == b"CREATE" and len(arguments) >= 4:
        return _create(database, *arguments[1:4], options=arguments[4:])
    if len(arguments) == {b"SETID": 4, b"DESTROY": 3}.get(what):
        key, name = arguments[1:3]
        stream = database.find(key, Stream)
        if stream is None:
            raise _needs_key()
        if what == b"DESTROY":
            gone = stream.groups.pop(name, None) is not None
            if gone:
                database.news[key] = False
            return int(gone)
        if (group := stream.groups.get(name)) is None:
            raise Refused(
                f"NOGROUP No such consumer group '{_text(name)}' for key name '{_text(key)}'"
            )
        group.last, group.read = _place(stream, arguments[3]), None
        return OK
    raise Refused(f"ERR unknown subcommand or wrong number of arguments for '{_text(what)}'")


def _needs_key() -> Refused:
    return Refused(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to "
        "use the MKSTREAM option to create an empty stream automatically."
    )


def _place(stream: Stream | None, text: bytes) -> Id:
    if text == b"$":
        return Id(0, 0) if stream is None else stream.last
    return read_id(text)


def _create(
    database: Database, key: bytes, name: bytes, place: bytes, *, options: Sequence[bytes]
) -> Answer:
    said = [option.upper() for option in options]
    if said not in ([], [b"MKSTREAM"]):
        raise syntax_error()
    stream = database.find(key, Stream)
    if stream is None and not said:
        raise _needs_key()
    last = _place(stream, place)
    stream = database.get_or_make(key, Stream)
    if name in stream.groups:
        raise Refused("BUSYGROUP Consumer Group name already exists")
    stream.groups[name] = Group(last, None)
    return OK


def _xreadgroup(database: Database, arguments: Sequence[bytes], now_us: int) -> Answer:
    if arguments[0].upper() != b"GROUP":
        raise syntax_error()
    name, consumer = arguments[1:3]
    asked = Reading(arguments[3:], name="xreadgroup")
    read: list[tuple[Stream, Group, Id | None]] = []
    for key, place in zip(asked.keys, asked.places, strict=True):
        try:
            stream, group = _find(database, key, name)
        except Refused as refused:
            if refused.said.startswith("NOGROUP"):
                raise Refused(f"{refused.said} in XREADGROUP with GROUP option") from None
            raise
        if place == b"$":
            raise Refused(_MEANINGLESS)
        read.append((stream, group, None if place == b">" else read_id(place)))
    found = Streams()
    for key, (stream, group, held_after) in zip(asked.keys, read, strict=True):
        group.consumers[consumer] = None
        if held_after is not None:
            found.append((key, _held_by(stream, group, consumer, held_after, asked.count)))
            continue
        given = [] if group.last >= stream.last else stream.between(after(group.last), LAST)
        given = given if asked.count is None else given[: asked.count]
        for identity in given:
            _give(stream, group, identity)
            if not asked.no_ack:
                group.hold(identity, consumer, now_us // 1000)
        if given:
            found.append((key, [entry(stream, identity) for identity in given]))
    return found or asked.blocked([b"XREADGROUP", *arguments[:3]], for_a_group=True)


def _give(stream: Stream, group: Group, identity: Id) -> None:
    group.last = identity
    if group.read is not None:
        group.read += 1
    else:
        group.read = stream.counted_up_to(identity)


def _held_by(
    stream: Stream, group: Group, consumer: bytes, place: Id, count: int | None
) -> list[Answer]:
    held = [
        one for one in group.pending_from(after(place)) if group.pending[one].consumer == consumer
    ]
    return [entry(stream, identity) for identity in held[:count]]


def _xack(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, name, *texts = arguments
    stream = database.find(key, Stream)
    group = None if stream is None else stream.groups.get(name)
    if group is None:
        return 0
    identities = [read_id(text) for text in texts]
    return sum([group.ack(identity) for identity in identities])


def _xpending(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    if len(arguments) != 2:
        raise syntax_error()
    _stream, group = _find(database, arguments[0], arguments[1])
    pending = group.pending_from(Id(0, 0))
    if not pending:
        return [0, None, None, None]
    by_consumer: dict[bytes, int] = {}
    for held in group.pending.values():
        by_consumer[held.consumer] = by_consumer.get(held.consumer, 0) + 1
    counts = [[consumer, b"%d" % count] for consumer, count in sorted(by_consumer.items())]
    return [len(pending), pending[0].written(), pending[-1].written(), counts]


def _xautoclaim(database: Database, arguments: Sequence[bytes], now_us: int) -> Answer:
    key, name, consumer, idle, begin, *options = arguments
    idle_ms = max(0, whole(idle, "ERR Invalid min-idle-time argument for XAUTOCLAIM"))
    first = read_bound(begin, first=True)
    count = 100
    if options:
        if len(options) != 2 or options[0].upper() != b"COUNT":
            raise syntax_error()
        count = whole(options[1], "ERR COUNT must be > 0")
        if count < 1:
            raise Refused("ERR COUNT must be > 0")
    stream, group = _find(database, key, name)
    group.consumers[consumer] = None
    now_ms = now_us // 1000
    claimed: list[Answer] = []
    gone: list[bytes] = []
    left, looks = count, count * _LOOKS_AT
    waiting = iter(group.pending_from(first))
    upcoming = next(waiting, None)
    while upcoming is not None and looks and left:
        looks -= 1
        identity, upcoming = upcoming, next(waiting, None)
        held = group.pending[identity]
        if identity not in stream.entries:
            del group.pending[identity]
            gone.append(identity.written())
            left -= 1
        elif now_ms - held.at_ms >= idle_ms:
            held.consumer, held.at_ms = consumer, now_ms
            held.times += 1
            claimed.append(entry(stream, identity))
            left -= 1
    return [(upcoming or Id(0, 0)).written(), claimed, gone]


COMMANDS = {
    b"XGROUP": Command(_xgroup, -2, writes=True, grows=True),
    b"XREADGROUP": Command(_xreadgroup, -7, writes=True),
    b"XACK": Command(_xack, -4, writes=True),
    b"XPENDING": Command(_xpending, -3),
    b"XAUTOCLAIM": Command(_xautoclaim, -6, writes=True),
}
