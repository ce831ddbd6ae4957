"""Names of streams, subjects, logs and keys. Every other module asks here.

A *stream* is one product's channel at one venue, written `coinbase:ticker:BTC-USD`. A *subject* is
where its records are published: `market.raw.coinbase.ticker.BTC-USD` before the normalizer and
`market.tick.3.coinbase.ticker.BTC-USD` after it. A *log* is what a broker stores together: `raw`,
`tick.<shard>`, `invalid`. The broker's own names follow from the log and a configured prefix.

A *pulse* says that an ingestor hears its venue now; it goes the way of the streams' records, on
`market.raw.coinbase.pulse.<name>` and `market.tick.<shard>.coinbase.pulse.<name>`, and is no
stream: it has no chain, is not archived and cannot be subscribed to.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple, Self, get_args

from services.common.errors import InvalidSubject

ROOT = "market"
RAW_LOG = "raw"
INVALID_LOG = "invalid"
# One subject for all: what is parked cannot always be attributed to a stream.
INVALID_SUBJECT = f"{ROOT}.{INVALID_LOG}"
Channel = Literal["ticker", "trades", "book"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
PULSE = "pulse"

# NATS gives '.', '*', '>' and white space a meaning inside subjects; ':' and '@' separate our keys.
_TOKEN = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_NO_TOKEN = re.compile(r"[^A-Za-z0-9_\-]")
_SHARD = re.compile(r"0|[1-9]\d{0,5}", re.ASCII)


def check_token(text: str) -> str:
    """Return `text` when it can be one token of a subject.

    Raises:
        InvalidSubject: it is empty, longer than 64 characters, or has a character with a meaning.
    """
    if _TOKEN.fullmatch(text) is None:
        raise InvalidSubject(text, "expected 1 to 64 of A-Z a-z 0-9 _ -")
    return text


class StreamKey(NamedTuple):
    """Identity of a stream. Its text form, `venue:channel:product`, is the key in every store."""

    venue: str
    channel: str
    product: str

    def __str__(self) -> str:
        return f"{self.venue}:{self.channel}:{self.product}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `venue:channel:product`. Raises InvalidSubject when it does not have that form."""
        parts = text.split(":")
        if len(parts) != 3:
            raise InvalidSubject(text, "expected venue:channel:product")
        return cls(*(check_token(part) for part in parts))


def tick_log(shard: int) -> str:
    """Name of the log that holds a shard's ticks."""
    return f"tick.{shard}"


@lru_cache(maxsize=65_536)
def raw_subject(key: StreamKey) -> str:
    return ".".join((ROOT, RAW_LOG, *map(check_token, key)))


@lru_cache(maxsize=65_536)
def tick_subject(shard: int, key: StreamKey) -> str:
    return ".".join((ROOT, tick_log(shard), *map(check_token, key)))


@lru_cache(maxsize=65_536)
def key_of(subject: str) -> StreamKey:
    """The stream a subject belongs to (its last three tokens).

    Raises:
        InvalidSubject: the subject is none of ours, or belongs to no stream.
    """
    if log_of(subject) == INVALID_LOG:
        raise InvalidSubject(subject, "belongs to no stream")
    return StreamKey(*(check_token(token) for token in subject.split(".")[-3:]))


@lru_cache(maxsize=65_536)
def log_of(subject: str) -> str:
    """The log that stores a subject: `raw`, `tick.<shard>` or `invalid`.

    Raises:
        InvalidSubject: the subject is none of ours.
    """
    parts = subject.split(".")
    if subject == INVALID_SUBJECT:
        return INVALID_LOG
    if parts[0] == ROOT and len(parts) == 5 and parts[1] == RAW_LOG:
        return RAW_LOG
    if parts[0] == ROOT and len(parts) == 6 and parts[1] == "tick" and _SHARD.fullmatch(parts[2]):
        return f"tick.{parts[2]}"
    raise InvalidSubject(subject, "not a subject of this platform")


def pulse_key(venue: str, name: str) -> StreamKey:
    """Where an ingestor's pulse goes; `name` tells it from others', in any form."""
    return StreamKey(venue, PULSE, _NO_TOKEN.sub("-", name)[:64])


@lru_cache(maxsize=65_536)
def is_pulse(subject: str) -> bool:
    """Whether pulses are published there, and no stream's records."""
    tokens = subject.split(".")
    return len(tokens) > 4 and tokens[0] == ROOT and tokens[-2] == PULSE


def log_subjects(log: str) -> str:
    """The pattern that covers all subjects of a log (NATS notation)."""
    return INVALID_SUBJECT if log == INVALID_LOG else f"{ROOT}.{log}.>"


def group_subject(*tokens: str) -> str:
    """Where a group's place in a log is kept (NATS); of no log, so that nobody is given it."""
    return ".".join((ROOT, "group", *tokens))


def jetstream_name(prefix: str, log: str) -> str:
    """JetStream's stream name for a log: `MARKET_RAW`, `MARKET_TICK_3`, `MARKET_INVALID`."""
    return f"{prefix}_{log.replace('.', '_').upper()}"


def redis_key(prefix: str, subject: str, epoch: int) -> str:
    """Redis key of the stream that holds one subject's records of one epoch."""
    return f"{prefix}:{subject}@{epoch}"


def redis_registry_key(prefix: str, log: str) -> str:
    """Redis key of the small stream that announces which subjects and epochs a log holds."""
    return f"{prefix}:registry:{log}"
