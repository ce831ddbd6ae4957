"""The fast path: the most frequent raw record's tick, with as few steps as can be. Pure.

Nearly every raw record is a frame that directly follows the one that is held and whose message is
of its channel's most frequent form. `FastPath` makes their ticks: record and message are decoded at
once, nothing is built that is not written, and what need not be looked into stays the venue's
bytes. Whatever else there is it declines, changing nothing, and `Normalizer` has the say; a record
that is not declined gives the bytes `Normalizer` would give (a property test says so).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from services.common.sharding import shard_of
from services.common.stream import Message, Position, Record
from services.common.subjects import StreamKey, key_of, tick_subject
from services.common.wire import LAST_RECEIVED, RECORD_VERSION, Tick, encode
from services.normalizer.chain import Chain, Place
from services.normalizer.venues.mapping import FastMapping, Unmappable, VenueMapper


class FrameRecord[Body](msgspec.Struct, gc=False):
    """A `RawRecord` of kind `frame` that names its predecessor, its message decoded with it."""

    v: Literal[1]
    kind: Literal["frame"]
    venue: str
    channel: str
    product: str
    epoch: int
    seq: int
    sub: Literal[0]
    prev: int
    ts_recv: Annotated[int, msgspec.Meta(ge=0, le=LAST_RECEIVED)]
    line: str
    body: Body
    prev_sub: int
    changes: None = None
    # Of no interest here; a record that says something of them goes the long way.
    open_gaps: None = None
    open_at: None = None


class _Stream:
    """What is the same for all records of a subject."""

    __slots__ = ("decode", "fields", "key", "place", "shard", "subject")

    def __init__(self, key: StreamKey, shard: int, mapping: FastMapping, place: Place) -> None:
        self.key = key
        self.shard = shard
        self.subject = tick_subject(shard, key)
        self.decode: Callable[[bytes], FrameRecord[Any]] = _decoder(mapping.body)
        self.fields = mapping.fields
        self.place = place


class FastPath:
    """See the module's docstring. `chain` is that of the `Normalizer`, which takes the rest."""

    def __init__(self, chain: Chain, shard_count: int, venues: Mapping[str, VenueMapper]) -> None:
        self._chain = chain
        self._shard_count = shard_count
        self._venues = venues
        self._streams: dict[str, _Stream] = {}
        # `ts_recv` of the newest record that was not declined.
        self.newest_ts_recv = 0

    def normalize(
        self, message: Message, headers: Mapping[str, str] | None = None
    ) -> Record | None:
        """The record for the tick log, with `headers`; None: declined.

        `message` is of a subject for which `key_of` gives a stream.
        """
        stream = self._streams.get(message.subject) or self._stream(message.subject)
        if stream is None:
            return None
        try:
            frame = stream.decode(message.payload)
            key, place, seq, prev = stream.key, stream.place, frame.seq, frame.prev
            if not (
                place.precedes(frame.epoch, seq, prev, frame.prev_sub)
                and frame.product == key.product
                and frame.channel == key.channel
                and frame.venue == key.venue
                and message.is_at(frame.epoch, seq, 0)
            ):
                return None
            ts_event, venue_seq, fields = stream.fields(key, frame.body, frame.ts_recv)
        except (Unmappable, ValueError, RecursionError):
            return None
        payload = encode(
            Tick(
                RECORD_VERSION,
                key.venue,
                key.channel,
                key.product,
                stream.shard,
                frame.epoch,
                seq,
                prev,
                venue_seq,
                ts_event,
                frame.ts_recv,
                fields,  # type: ignore[arg-type]  # encoded to the bytes of `Fields`
                frame.prev_sub,
            )
        )
        place.move(frame.epoch, seq, 0)
        self.newest_ts_recv = frame.ts_recv
        # Twice as quick as the constructor of a named tuple.
        position = tuple.__new__(Position, (frame.epoch, seq, 0))
        return Record(stream.subject, payload, position, headers)

    def forget(self) -> None:
        """Ask the chain again for each stream."""
        self._streams.clear()

    def _stream(self, subject: str) -> _Stream | None:
        """What is held of the subject, once something is."""
        key = key_of(subject)
        place = self._chain.place(key)
        venue = self._venues.get(key.venue)
        mapping = None if venue is None else venue.fast_path.get(key.channel)
        if place is None or mapping is None:
            return None
        stream = _Stream(key, shard_of(key.product, self._shard_count), mapping, place)
        self._streams[subject] = stream
        return stream


_decoders: dict[type[msgspec.Struct], Callable[[bytes], FrameRecord[Any]]] = {}


def _decoder(body: type[msgspec.Struct]) -> Callable[[bytes], FrameRecord[Any]]:
    """One for each kind of message, not for each stream."""
    if body not in _decoders:
        _decoders[body] = msgspec.json.Decoder(FrameRecord[body]).decode  # type: ignore[valid-type]
    return _decoders[body]
