"""Inputs made of other inputs: byte by byte, and where they hold JSON value by value. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

# What parsers get wrong: bounds of integers and of lengths, and what is nearly UTF-8 or a number.
_PIECES = (
    *(b"", b"\0", b"\r\n", b"\r\n\r\n", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80"),
    *(b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b";", b"=", b".", b"-", b"%00"),
    *(b"0", b"-1", b"1e400", b"65535", b"65536", b"9223372036854775807", b"9223372036854775808"),
    *(b"9" * 30, b"true", b"null", b"NaN", "\u0661\u0662".encode(), b"[" * 1100, b"A" * 300),
)
# As they stand in a JSON text; some are none.
_VALUES = (
    *("null", "true", "0", "-1", "1.5", "1e-7", "1e400", "9007199254740992", "-0.0", "1E2"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "9" * 40, "9" * 5000),
    *('""', '"0"', '"-1"', '"1e99"', '"1e999"', '"0.1"', '"NaN"', '" "', '"\\u0000"', '"\\ud800"'),
    *('"\u0661"', '"' + "9" * 60 + '"', '"a:b:c"', '"BTC-USD"', '"buy"', '"sell"', "[]", "{}"),
    *('"2026-07-07T22:58:17.050195Z"', '"0001-01-01T00:00:00+10:00"', '"9999-12-31T23:59:59Z"'),
    *("[[]]", "[null]", '[["buy","1","2"]]', '[["1","2"],["1","3"]]', "[" * 600 + "]" * 600),
)
# Stands for a value that is put into the text, since not all of them can be written by `json`.
_HOLE = "\ue000"


def mutated(data: bytes, seeds: Sequence[bytes], random: Random, most: int) -> bytes:
    """`data` changed in one to four places, with pieces of `seeds`; of at most `most` bytes."""
    for _ in range(random.choice((1, 1, 2, 4))):
        changed = _value_changed(data, random) if random.random() < 0.5 else None
        data = _bytes_changed(data, seeds, random) if changed is None else changed
    return data[:most]


def stretched(data: bytes, most: int) -> list[bytes]:
    """Inputs near `most` bytes that say again and again what `data`, or a part of it, says."""
    third = max(1, len(data) // 3)
    parts = (data, data[third : 2 * third], data[-1:])
    found = []
    for part in parts:
        repeated = part * (most // max(1, len(part)))
        found += [repeated, data[:third] + repeated + data[-third:]]
    return found


def _bytes_changed(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    at = random.randint(0, len(data))
    end = min(len(data), at + random.choice((0, 1, 1, 2, 8, 64)))
    match random.randrange(6):
        case 0:
            return data[:at] + random.choice(_PIECES) + data[end:]
        case 1:
            return data[:at] + random.randbytes(end - at or 1) + data[end:]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + data[at:end] * random.choice((2, 3, 40)) + data[end:]
        case 4 if seeds:
            other = random.choice(seeds)
            begin = random.randint(0, len(other))
            return data[:at] + other[begin : begin + random.choice((1, 8, 64, 4096))] + data[end:]
        case _:
            whole = bytearray(data or b"\0")
            whole[random.randrange(len(whole))] ^= 1 << random.randrange(8)
            return bytes(whole)


def _value_changed(data: bytes, random: Random) -> bytes | None:
    """The JSON text behind what is no JSON, one value of it another; None where there is none."""
    begin = min((at for at in (data.find(b"{"), data.find(b"[")) if at >= 0), default=-1)
    if begin < 0:
        return None
    try:
        value = json.loads(data[begin:])
    except (ValueError, RecursionError):
        return None
    places = list(_places(value))
    if not places:
        return None
    holder, key = random.choice(places)
    put = random.choice(_VALUES)
    if random.random() < 0.2:
        del holder[key]
    else:
        holder[key] = _HOLE
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=random.random() < 0.5)
    for hole in (json.dumps(_HOLE), f'"{_HOLE}"'):
        text = text.replace(hole, put)
    return data[:begin] + text.encode(errors="surrogatepass")


def _places(value: Any, deep: int = 0) -> list[tuple[Any, Any]]:
    """Where values stand in it: (list or dict, index or key), a few levels deep."""
    if deep > 6:
        return []
    if isinstance(value, dict):
        inside: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value[:50]))
    else:
        return []
    found = [(value, key) for key, _ in inside]
    for _, one in inside:
        found += _places(one, deep + 1)
    return found
