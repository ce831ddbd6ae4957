"""Random commands of the kinds that the adapter uses, right and wrong, on a few keys."""

from __future__ import annotations

from hypothesis import strategies as st

from services.common.stream.redis.logs import _TRIM
from services.common.stream.redis.store_script import _STORE

type Words = tuple[bytes, ...]

_STREAMS = st.sampled_from([b"s1", b"s2"])
_KEYS = st.sampled_from([b"s1", b"s2", b"other", b"marks", b"trimmed"])
_GROUPS = st.sampled_from([b"g1", b"g2"])
_CONSUMERS = st.sampled_from([b"c1", b"c2"])
_IDS = st.builds(lambda ms, seq: b"%d-%d" % (ms, seq), st.integers(0, 9), st.integers(0, 2))
_WHOLE_IDS = _IDS | st.sampled_from(
    [b"0", b"3", b"7", b"18446744073709551615-18446744073709551615"]
)
_ADD_IDS = _WHOLE_IDS | st.sampled_from([b"4-*", b"8-*", b"0-*", b"x", b"1-x", b"01-1", b"-"])
_ENDS = _WHOLE_IDS | st.sampled_from([b"-", b"+", b"(2-1", b"(5", b"(0-0", b"(x", b"y"])
_COUNTS = st.sampled_from([b"0", b"1", b"2", b"5", b"-1", b"x"])
_SCORES = st.sampled_from([b"1", b"2.5", b"3", b"(2.5", b"-inf", b"+inf", b"(1", b"high"])


def _words(*parts: bytes | st.SearchStrategy[bytes]) -> st.SearchStrategy[Words]:
    return st.tuples(*[st.just(part) if isinstance(part, bytes) else part for part in parts])


def _and(*parts: st.SearchStrategy[Words]) -> st.SearchStrategy[Words]:
    return st.tuples(*parts).map(lambda found: tuple(word for part in found for word in part))


def _maybe(*parts: bytes | st.SearchStrategy[bytes]) -> st.SearchStrategy[Words]:
    return st.just(()) | _words(*parts)


def _some(part: st.SearchStrategy[bytes], most: int = 3) -> st.SearchStrategy[Words]:
    return st.lists(part, min_size=1, max_size=most).map(tuple)


_BOUNDS = st.sampled_from([b"MAXLEN", b"MINID"])
_HEADERS = st.sampled_from([b"", b'{"a":"b"}'])
_EXACT = _maybe(b"=")
_COUNT = _maybe(b"COUNT", _COUNTS)
_BLOCK = _maybe(b"BLOCK", st.sampled_from([b"1", b"-1", b"x"]))
_READS = st.sampled_from([b"0", b"2-1", b"4", b">", b"$", b"x"])

_ADDS = _and(
    _words(b"XADD", _KEYS),
    _maybe(b"NOMKSTREAM"),
    st.just(()) | _and(_words(_BOUNDS), _EXACT, _words(_WHOLE_IDS)),
    _words(_ADD_IDS),
    st.sampled_from([(b"p", b"1"), (b"p", b"2", b"h", b"{}"), (b"odd",)]),
)
_READING = _and(_COUNT, _BLOCK)
_READ_ONE = _and(_words(b"STREAMS", _KEYS), _words(_READS))
_READ_TWO = _and(_words(b"STREAMS", _STREAMS, _KEYS), _words(_READS, _READS))
_OF_STREAMS = st.one_of(
    _ADDS,
    _words(b"XADD", _STREAMS, _IDS, b"p", b"v"),
    _words(b"XLEN", _KEYS),
    _and(_words(b"XTRIM", _KEYS, _BOUNDS), _EXACT, _words(_WHOLE_IDS)),
    _and(_words(b"XRANGE", _KEYS, _ENDS, _ENDS), _COUNT),
    _and(_words(b"XREVRANGE", _KEYS, _ENDS, _ENDS), _COUNT),
    _and(_words(b"XREAD"), _READING, _READ_ONE | _READ_TWO),
    _words(b"XREAD", b"STREAMS", b"s1", b"s2", b"0"),
    _words(b"XINFO", b"STREAM", _KEYS),
)
_OF_GROUPS = st.one_of(
    _and(_words(b"XGROUP", b"CREATE", _KEYS, _GROUPS, _WHOLE_IDS), _maybe(b"MKSTREAM")),
    _words(b"XGROUP", b"CREATE", _STREAMS, _GROUPS, b"$", b"MKSTREAM"),
    _words(b"XGROUP", b"CREATE", _STREAMS, _GROUPS, b"0", b"MKSTREAM"),
    _words(b"XGROUP", b"SETID", _KEYS, _GROUPS, _WHOLE_IDS),
    _words(b"XGROUP", b"DESTROY", _KEYS, _GROUPS),
    _and(
        _words(b"XREADGROUP", b"GROUP", _GROUPS, _CONSUMERS),
        _READING,
        _maybe(b"NOACK"),
        _READ_ONE | _READ_TWO,
    ),
    _and(
        _words(b"XREADGROUP", b"GROUP", _GROUPS, _CONSUMERS),
        _COUNT,
        _words(b"STREAMS", _STREAMS, b">"),
    ),
    _and(_words(b"XACK", _KEYS, _GROUPS), _some(_WHOLE_IDS)),
    _words(b"XPENDING", _KEYS, _GROUPS),
    _and(_words(b"XAUTOCLAIM", _KEYS, _GROUPS, _CONSUMERS, b"0", _ENDS), _COUNT),
    _words(b"XINFO", b"GROUPS", _KEYS),
)
_OF_OTHERS = st.one_of(
    _and(_words(b"EXISTS"), _some(_KEYS)),
    _words(b"TYPE", _KEYS),
    _and(_words(b"DEL"), _some(_KEYS, 2)),
    _words(b"KEYS", st.sampled_from([b"*", b"s*", b"s?", b"mark[st]"])),
    _words(b"GET", _KEYS),
    _and(
        _words(b"SET", _KEYS, st.sampled_from([b"1", b"two"])),
        _maybe(st.sampled_from([b"NX", b"XX"])),
    ),
    _words(b"HSET", _KEYS, _CONSUMERS, b"v"),
    _words(b"HSET", _KEYS, _CONSUMERS, b"v", b"more"),
    _words(b"HGET", _KEYS, _CONSUMERS),
    _and(_words(b"HMGET", _KEYS), _some(_CONSUMERS)),
    _words(b"HGETALL", _KEYS),
    _and(_words(b"HDEL", _KEYS), _some(_CONSUMERS)),
    _words(b"ZADD", _KEYS, _SCORES, _IDS),
    _words(b"ZCARD", _KEYS),
    _words(b"ZREVRANGEBYSCORE", _KEYS, _SCORES, _SCORES),
    _words(b"ZREVRANGEBYSCORE", _KEYS, _SCORES, _SCORES, b"LIMIT", b"0", _COUNTS),
    _words(b"ZREMRANGEBYSCORE", _KEYS, _SCORES, _SCORES),
    _words(b"PING"),
    _words(b"NOSUCH", b"command"),
    _words(st.sampled_from([b"XACK", b"GET", b"XADD", b"EVAL", b"SET", b"MULTI"]), b"few"),
)


@st.composite
def _stores(draw: st.DrawFn) -> Words:
    """A call of the script that stores."""
    streams = draw(_some(_KEYS))
    marks = draw(st.lists(st.tuples(_KEYS, _IDS), max_size=2))
    count = draw(st.integers(1, 4))
    records = [
        (b"%d" % draw(st.integers(4, 3 + len(streams))), draw(_ADD_IDS), b"p", draw(_HEADERS))
        for _ in range(count)
    ]
    words = [
        b"EVAL",
        _STORE.encode(),
        b"%d" % (3 + len(streams)),
        b"epoch",
        b"registry",
        b"trimmed",
    ]
    words += [*streams, draw(st.sampled_from([b"1", b"two"])), b"2.5", b"0", b"%d" % len(marks)]
    words += [word for pair in marks for word in pair]
    words += [word for record in records for word in record]
    return tuple(words)


_OF_SCRIPTS = st.one_of(
    _stores(),
    _words(b"EVAL", _TRIM.encode(), b"3", _KEYS, _KEYS, _KEYS, _SCORES),
    _words(b"EVALSHA", b"0" * 40, b"0"),
    _words(b"SET", b"epoch", st.sampled_from([b"1", b"two"])),
    _words(b"XADD", b"registry", _IDS, b"s", b"x"),
    _words(b"ZADD", b"marks", st.sampled_from([b"1", b"2", b"3"]), _IDS),
)
_TRANSACTIONS = st.sampled_from([(b"MULTI",), (b"EXEC",), (b"DISCARD",)])
_CONDITIONS = st.sampled_from(
    [
        (b"CONFIG", b"SET", b"maxmemory", b"1"),
        (b"CONFIG", b"SET", b"maxmemory", b"0"),
        (b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-random"),
        (b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction"),
        (b"CONFIG", b"GET", b"maxmemory"),
        (b"REPLICAOF", b"127.0.0.1", b"1"),
        (b"REPLICAOF", b"NO", b"ONE"),
    ]
)

STREAMS = st.lists(_OF_STREAMS | _OF_GROUPS, min_size=10, max_size=60)
SCRIPTS = st.lists(_OF_SCRIPTS | _ADDS, min_size=5, max_size=40)
# Whole transactions, during which the server's condition may change.
_WHOLE_TRANSACTIONS = st.tuples(
    st.just([(b"MULTI",)]),
    st.lists(_OF_GROUPS | _words(b"XADD", _STREAMS, _IDS, b"p", b"v"), max_size=2),
    st.lists(_CONDITIONS, max_size=1),
    st.just([(b"EXEC",)]),
).map(lambda parts: [words for part in parts for words in part])
CONDITIONS = st.lists(
    st.one_of(_OF_SCRIPTS, _ADDS, _OF_GROUPS, _CONDITIONS).map(lambda words: [words])
    | _WHOLE_TRANSACTIONS,
    min_size=5,
    max_size=30,
).map(lambda parts: [words for part in parts for words in part])
ALL = st.lists(
    st.one_of(_OF_STREAMS, _OF_GROUPS, _OF_OTHERS, _OF_SCRIPTS, _TRANSACTIONS, _CONDITIONS),
    min_size=10,
    max_size=60,
)
