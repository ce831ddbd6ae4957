"""Commands on keys, strings, hashes and sorted sets."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from tests.simulation.redis_model.answers import OK, Answer, Refused, Status, syntax_error, whole
from tests.simulation.redis_model.database import Command, Database, Hash, SortedSet


def _exists(database: Database, keys: Sequence[bytes], _now_us: int) -> Answer:
    return sum(key in database.values for key in keys)


def _type(database: Database, keys: Sequence[bytes], _now_us: int) -> Answer:
    return Status(database.kind(keys[0]))


def _delete(database: Database, keys: Sequence[bytes], _now_us: int) -> Answer:
    return sum([database.remove(key) for key in keys])


def _keys(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    pattern = re.compile(fnmatch.translate(arguments[0].decode(errors="surrogateescape")))
    return [key for key in database.values if pattern.match(key.decode(errors="surrogateescape"))]


def _flush(database: Database, _arguments: Sequence[bytes], _now_us: int) -> Answer:
    for key in list(database.values):
        database.remove(key)
    return OK


# -- strings


def _get(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return database.find(arguments[0], bytes)


def _set(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, value, *options = arguments
    said = [option.upper() for option in options]
    if said not in ([], [b"NX"], [b"XX"]):
        raise syntax_error()
    if said and (key in database.values) != (said == [b"XX"]):
        return None
    database.put(key, value)
    return OK


# -- hashes


def _hset(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, *pairs = arguments
    if len(pairs) % 2:
        raise Refused("ERR wrong number of arguments for 'hset' command")
    held = database.get_or_make(key, Hash)
    before = len(held)
    held.update(zip(pairs[::2], pairs[1::2], strict=True))
    return len(held) - before


def _hget(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return (database.find(arguments[0], Hash) or Hash()).get(arguments[1])


def _hmget(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    held = database.find(arguments[0], Hash) or Hash()
    return [held.get(field) for field in arguments[1:]]


def _hgetall(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return dict(database.find(arguments[0], Hash) or {})


def _hdel(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    held = database.find(arguments[0], Hash)
    if held is None:
        return 0
    gone = sum(held.pop(field, None) is not None for field in arguments[1:])
    if not held:
        database.remove(arguments[0])
    return gone


# -- sorted sets


def _zadd(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, *pairs = arguments
    if len(pairs) % 2:
        raise syntax_error()
    scores = [_score(text, "ERR value is not a valid float") for text in pairs[::2]]
    held = database.get_or_make(key, SortedSet)
    before = len(held)
    held.update(zip(pairs[1::2], scores, strict=True))
    return len(held) - before


def _score(text: bytes, said: str) -> float:
    try:
        score = float(text)
    except ValueError:
        raise Refused(said) from None
    if score != score:
        raise Refused(said)
    return score


def _end(text: bytes, *, lowest: bool) -> Callable[[float], bool]:
    """Whether a score lies on the right side of an end of a range."""
    excluded = text[:1] == b"("
    end = _score(text[1:] if excluded else text, "ERR min or max is not a float")
    if lowest:
        return (lambda score: score > end) if excluded else (lambda score: score >= end)
    return (lambda score: score < end) if excluded else (lambda score: score <= end)


def _zrevrange(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, highest, lowest, *options = arguments
    begin, count = 0, -1
    if options:
        if len(options) != 3 or options[0].upper() != b"LIMIT":
            raise syntax_error()
        begin, count = whole(options[1]), whole(options[2])
    low, high = _end(lowest, lowest=True), _end(highest, lowest=False)
    held = database.find(key, SortedSet)
    if held is None or begin < 0:
        return []
    found = held.between(low, high)[::-1][begin:]
    return found if count < 0 else found[:count]


def _zremrange(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    key, lowest, highest = arguments
    low, high = _end(lowest, lowest=True), _end(highest, lowest=False)
    held = database.find(key, SortedSet)
    if held is None:
        return 0
    gone = held.between(low, high)
    for member in gone:
        del held[member]
    if not held:
        database.remove(key)
    return len(gone)


def _zcard(database: Database, arguments: Sequence[bytes], _now_us: int) -> Answer:
    return len(database.find(arguments[0], SortedSet) or ())


def _time(_database: Database, _arguments: Sequence[bytes], now_us: int) -> Answer:
    return [b"%d" % (now_us // 1_000_000), b"%d" % (now_us % 1_000_000)]


COMMANDS = {
    b"EXISTS": Command(_exists, -2),
    b"TYPE": Command(_type, 2),
    b"DEL": Command(_delete, -2, writes=True),
    b"KEYS": Command(_keys, 2),
    b"FLUSHALL": Command(_flush, -1, writes=True),
    b"GET": Command(_get, 2),
    b"SET": Command(_set, -3, writes=True, grows=True),
    b"HSET": Command(_hset, -4, writes=True, grows=True),
    b"HGET": Command(_hget, 3),
    b"HMGET": Command(_hmget, -3),
    b"HGETALL": Command(_hgetall, 2),
    b"HDEL": Command(_hdel, -3, writes=True),
    b"ZADD": Command(_zadd, -4, writes=True, grows=True),
    b"ZCARD": Command(_zcard, 2),
    b"ZREVRANGEBYSCORE": Command(_zrevrange, -4),
    b"ZREMRANGEBYSCORE": Command(_zremrange, 4, writes=True),
    b"TIME": Command(_time, 1),
}
