"""What a venue has to say for itself: one small interface, and the refusal that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from services.common.errors import PlatformError
from services.common.subjects import StreamKey
from services.common.wire import Fields


class Unmappable(PlatformError):
    """A raw record that is not understood. It is parked, and its place in the stream is a reset."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code  # one word for metrics: few different ones exist
        self.detail = detail  # what was found and where
        super().__init__(f"{code}: {detail}")


class Mapped(NamedTuple):
    """What one message says. `ts_event` is the venue's time, or the receive time without one.

    `refused`: optional fields that make no sense; they are left out, and the rest stands.
    """

    ts_event: int
    venue_seq: int | None
    fields: Fields
    refused: tuple[Unmappable, ...] = ()


class MappedState(NamedTuple):
    """A whole state, encoded as `Snapshot.state`; `refused` are rows that had to be left out."""

    ts_event: int
    state: msgspec.Raw
    refused: tuple[Unmappable, ...] = ()


class FastMapping(NamedTuple):
    """A channel's most frequent message, for those who decode a raw record and its body at once."""

    body: type[msgspec.Struct]  # the struct of the message
    # What a decoded message says, as in `Mapped`; instead of `Fields` the third may be anything
    # that is encoded to the same bytes. Raises Unmappable for whatever is not the plain case: such
    # a message is then mapped by `VenueMapper.fields`, which has the say
    fields: Callable[[StreamKey, Any, int], tuple[int, int | None, msgspec.Struct]]


class VenueMapper(Protocol):
    """Turns a venue's own messages into the platform's words. Pure: same input, same output."""

    fast_path: Mapping[str, FastMapping]  # by channel

    def fields(
        self,
        key: StreamKey,
        body: bytes,
        ts_recv: int,
        changes: list[tuple[str, str, str]] | None = None,
    ) -> Mapped:
        """What one message of the stream says; `changes` as in `RawRecord`.

        Raises:
            Unmappable: it is malformed, or not a message of this stream.
        """
        ...

    def state(self, key: StreamKey, body: bytes, ts_recv: int) -> MappedState:
        """The whole state that a snapshot message of the stream gives.

        Raises:
            Unmappable: as a whole it cannot be understood.
        """
        ...


# By type: making one takes much longer than decoding with it.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode[T](kind: type[T], body: bytes | msgspec.Raw) -> T:
    """Decode strictly; unknown fields are ignored.

    Raises:
        Unmappable: it is not JSON, or a field has not the type it must have.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Unmappable("bad_field", str(error)) from error
    except (ValueError, RecursionError) as error:
        # Broken UTF-8 and bottomless nesting surface as built-in exceptions.
        raise Unmappable("bad_json", str(error)) from error
