"""Messages as the venue has been seen to write them, which no schema promises. Pure, seeded.

Each kind rewrites one message on its way out; the market behind it stays right. `exponent`,
`empty` and `absent` say the same in another form. The others cannot be believed, so that whoever
reads them has to ask REST for the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from random import Random
from typing import Any, Literal

import msgspec

from tools.simulator.protocol.messages import Outgoing, encode

OddKind = Literal[
    "exponent",
    "empty",
    "absent",
    "bad_size",
    "wrong_size",
    "bad_price",
    "year_0001",
    "bad_time",
    "wild_trade_id",
    "wild_sequence",
    "huge_sequence",
]

_Message = dict[str, Any]
# Fields a message may lack, by type: what the venue's schema calls optional, or an old feed lacked.
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "ticker": (
        *("best_bid", "best_bid_size", "best_ask", "best_ask_size", "open_24h", "volume_24h"),
        *("low_24h", "high_24h", "volume_30d", "side", "last_size"),
    ),
    "match": ("maker_order_id", "taker_order_id"),
    "last_match": ("maker_order_id", "taker_order_id"),
    "snapshot": ("time",),
}
_DECIMALS = (
    *("price", "size", "last_size", "best_bid", "best_bid_size", "best_ask", "best_ask_size"),
    *("open_24h", "low_24h", "high_24h", "volume_24h", "volume_30d", "remaining_size"),
    *("old_size", "new_size", "old_price", "new_price"),
)
# As recorded: a size of the venue's that no parser takes.
UNREADABLE = "0.-10000"
# A jump that no feed can make, but that fits every integer.
WILD_STEP = 10**9
# One above what 64 bits hold.
HUGE = 2**64 + 5


def exponent(text: str) -> str:
    """The same number in exponent notation: `0.00000051` as `5.1e-7`."""
    number = Decimal(text)
    if not number:
        return "0e0"
    first, rest = str(number.as_tuple().digits[0]), number.as_tuple().digits[1:]
    tail = "".join(map(str, rest)).rstrip("0")
    mantissa = f"{first}.{tail}" if tail else first
    return f"{'-' if number < 0 else ''}{mantissa}e{number.adjusted()}"


def _rows(message: _Message) -> Iterator[list[str]]:
    """The levels of a book message, as lists that may be written to; price and size are last."""
    for name in ("changes", "bids", "asks"):
        yield from message.get(name, ())


def _exponent(message: _Message, _rng: Random) -> bool:
    for row in _rows(message):
        row[-2:] = map(exponent, row[-2:])
    named = [name for name in _DECIMALS if isinstance(message.get(name), str)]
    for name in named:
        message[name] = exponent(message[name])
    return bool(named) or any(True for _ in _rows(message))


def _spoil_optional(message: _Message, rng: Random, spoil: Callable[[str], Any]) -> bool:
    names = [name for name in _OPTIONAL.get(message["type"], ()) if name in message]
    for name in rng.sample(names, rng.randint(1, len(names))) if names else ():
        spoil(name)
    return bool(names)


def _spoil_decimal(message: _Message, rng: Random, field: str, column: int) -> bool:
    rows = list(_rows(message))
    if rows:
        rng.choice(rows)[column] = UNREADABLE
        return True
    if not isinstance(message.get(field), str):
        return False
    message[field] = UNREADABLE
    return True


def _wrong_size(message: _Message, _rng: Random) -> bool:
    """A deep level gets a size that it has not: nothing in the message or at the touch tells."""
    buys = [row for row in message.get("changes", ()) if row[0] == "buy"]
    if len(buys) < _SEVERAL:
        return False
    deepest = min(buys, key=lambda row: Decimal(row[1]))
    deepest[2] = f"{Decimal(deepest[2]) + 1:f}"
    return True


def _replace(message: _Message, field: str, value: Callable[[Any], object]) -> bool:
    if message.get(field) is None:
        return False
    message[field] = value(message[field])
    return True


# A level may be thought deep when so many of its side change at once.
_SEVERAL = 3

_KINDS: dict[OddKind, Callable[[_Message, Random], bool]] = {
    "exponent": _exponent,
    "empty": lambda message, rng: _spoil_optional(
        message, rng, lambda name: message.__setitem__(name, "")
    ),
    "absent": lambda message, rng: _spoil_optional(message, rng, message.pop),
    "bad_size": lambda message, rng: _spoil_decimal(
        message, rng, "last_size" if message["type"] == "ticker" else "size", -1
    ),
    "bad_price": lambda message, rng: _spoil_decimal(message, rng, "price", -2),
    "wrong_size": _wrong_size,
    "year_0001": lambda message, _: _replace(message, "time", lambda _: "0001-01-01T00:00:00Z"),
    "bad_time": lambda message, _: _replace(message, "time", lambda _: "yesterday"),
    "wild_trade_id": lambda message, _: (
        _replace(message, "last_trade_id", lambda held: held + WILD_STEP)
        or _replace(message, "trade_id", lambda held: held + WILD_STEP)
    ),
    "wild_sequence": lambda message, _: _replace(
        message, "sequence", lambda held: held + WILD_STEP
    ),
    "huge_sequence": lambda message, _: _replace(message, "sequence", lambda _: HUGE),
}


def distort(kind: OddKind, message: Outgoing, rng: Random) -> Outgoing | None:
    """The message as an oddity of that kind; None where the kind does not exist for its type."""
    decoded = msgspec.json.decode(message.encoded())
    # A level3 row is a list: its fields have no names to be odd by.
    if not isinstance(decoded, dict) or not _KINDS[kind](decoded, rng):
        return None
    return message._replace(body=encode(decoded))
