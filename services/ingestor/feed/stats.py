"""What a feed shows of itself to metrics, `/feeds` and the log. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from services.common.subjects import StreamKey
from services.common.wire import StreamState
from services.ingestor.streams import BookStream, ProductStreams
from services.ingestor.streams.raw_writer import RawStreamWriter
from services.ingestor.streams.stream_state import StreamStateTracker


@dataclass(frozen=True, slots=True)
class StreamStats:
    """A stream at one moment.

    Attributes:
        state: its state, for `state_age_s` by now.
        record_age_s: since its newest record was received; None before the first.
    """

    key: StreamKey
    state: StreamState
    state_age_s: float
    record_age_s: float | None


@dataclass(frozen=True, slots=True)
class FeedStats:
    """A feed at one moment; counters are since the process began.

    Attributes:
        venue: name of the venue.
        name: name of the feed, `coinbase-0`.
        connected: whether data flows.
        messages: frames received.
        ignored: frames of an unknown type or product.
        queued: messages waiting for a resync.
        reconnects: connections lost.
        last_message_age_s: None before the first message.
        streams: of all its products.
        verified_ages_s: by book, since it was last known to be right.
        open_trades: by stream, how many trades of announced gaps are still asked for.
    """

    venue: str
    name: str
    connected: bool
    messages: int
    ignored: int
    queued: int
    reconnects: int
    last_message_age_s: float | None
    streams: tuple[StreamStats, ...] = ()
    verified_ages_s: Mapping[StreamKey, float] = field(default_factory=dict)
    open_trades: Mapping[StreamKey, int] = field(default_factory=dict)


def stream_stats(writer: RawStreamWriter, state: StreamStateTracker, now: int) -> StreamStats:
    """A stream as it is `now` (µs)."""
    at = writer.advanced_at
    return StreamStats(
        writer.key,
        state.value,
        max(0, now - state.since) / 1e6,
        max(0, now - at) / 1e6 if at else None,
    )


def feed_stats(
    venue: str,
    name: str,
    products: Collection[ProductStreams],
    now: int,
    *,
    connected: bool,
    messages: int,
    ignored: int,
    reconnects: int,
    last_message: int,
) -> FeedStats:
    """A feed as it is `now`; `last_message` is when it came, 0 for never (both µs)."""
    trades = [streams.trades for streams in products if streams.trades is not None]
    books = [streams.book for streams in products if streams.book is not None]
    return FeedStats(
        venue,
        name,
        connected,
        messages,
        ignored,
        sum(stream.held for stream in (*trades, *books)),
        reconnects,
        (now - last_message) / 1e6 if last_message else None,
        tuple(
            stream_stats(stream.writer, stream.state, now)
            for streams in products
            for stream in streams.all
        ),
        {
            book.writer.key: max(0, now - book.verified) / 1e6
            for book in books
            if isinstance(book, BookStream) and book.replica is not None and book.verified
        },
        {stream.writer.key: stream.open.count for stream in trades},
    )
