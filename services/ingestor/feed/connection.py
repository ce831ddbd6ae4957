"""One upstream connection: how it is made, its life, and the one word for why it ended.

Its life is a table: a step that is not in it is a defect and raises. `failed` means that the venue
refused the whole subscription: it is tried again only after the longest pause.
"""

from __future__ import annotations

from enum import Enum

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI, ProxyError

from services.common.network.proxies import proxy_for
from services.ingestor.settings import Settings

log = structlog.get_logger(__name__)


class FeedState(Enum):
    STOPPED = "stopped"
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    ACTIVE = "active"
    RECONNECTING = "reconnecting"
    FAILED = "failed"


# Any state may also be followed by STOPPED.
STEPS = {
    FeedState.STOPPED: {FeedState.CONNECTING},
    FeedState.CONNECTING: {FeedState.SUBSCRIBING, FeedState.RECONNECTING},
    FeedState.SUBSCRIBING: {FeedState.ACTIVE, FeedState.RECONNECTING, FeedState.FAILED},
    FeedState.ACTIVE: {FeedState.RECONNECTING},
    FeedState.RECONNECTING: {FeedState.CONNECTING},
    FeedState.FAILED: {FeedState.CONNECTING},
}


def checked_step(before: FeedState, after: FeedState) -> FeedState:
    """`after`. Raises ValueError when it cannot follow `before`."""
    if after is not FeedState.STOPPED and after not in STEPS[before]:
        raise ValueError(f"a feed that is {before.value} cannot become {after.value}")
    return after


# A BTC-USD book snapshot is 1.1 MB, and has been 1.3 MB.
_MAX_FRAME = 32 * 1024 * 1024
# Frames read ahead of us before the kernel has to hold them.
_MAX_QUEUE = 1024
_CLOSE_TIMEOUT_S = 1.0
# The first that fits.
_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "connect_timeout"),
    (ProxyError, "proxy_refused"),
    (InvalidHandshake, "handshake_refused"),
    (InvalidURI, "bad_address"),
    (ConnectionRefusedError, "connect_refused"),
    (OSError, "network"),
)


async def dial(feed: str, endpoint: str, settings: Settings) -> ClientConnection | str:
    """A connection, or why there is none; `feed` is for the log."""
    try:
        return await connect(
            endpoint,
            max_size=_MAX_FRAME,
            max_queue=_MAX_QUEUE,
            open_timeout=settings.connect_timeout_ms / 1000,
            close_timeout=_CLOSE_TIMEOUT_S,
            compression="deflate" if settings.ws_compression else None,
            proxy=proxy_for(endpoint),
        )
    # Resolvers, codecs, proxies and TLS raise from families of their own (a port above 65535, a
    # label of a name that is too long): an attempt costs itself, and the next one is made.
    except Exception as error:  # noqa: BLE001 - see above; it is told by its name
        for kind, word in _WORDS:
            if isinstance(error, kind):
                return word
        text = f"{type(error).__name__}: {error}"[:200]
        log.warning("connect_failed", feed=feed, endpoint=endpoint, reason=text)
        return "connect_failed"


def why_closed(error: ConnectionClosed) -> str:
    """Metric label for how a connection ended."""
    if error.rcvd is not None:
        return f"closed_{error.rcvd.code}"
    if error.sent is not None:
        # We closed it: too large a frame (1009), no answer to a ping (1011), ...
        return f"gave_up_{error.sent.code}"
    return "reset"
