"""Sessions of anything: no server error, no broken chain, and the next client is served.

`FUZZ_EXAMPLES=5000` looks longer.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import EPOCH, bench

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
ODD: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PRODUCTS = st.sampled_from(
    ["BTC-USD", "ETH-USD", "NO-SUCH", "", "*", "a.b", ">", "\u0000", "x" * 65]
)
SEQS = st.sampled_from([0, 1, 107, 108, 114, 500, 10**6, 2**63 - 1, 2**63, -1])
CURSORS = st.sampled_from([f"{EPOCH}.114", f"{EPOCH}.0", "0.0", "1.1", ".", "", "9" * 40 + ".1"])
FIELDS: dict[str, Any] = {
    "id": ODD,
    "product": PRODUCTS,
    "products": st.lists(PRODUCTS, max_size=5),
    "venue": st.sampled_from(["coinbase", "", "x.y", "*"]),
    "channel": st.sampled_from(["ticker", "trades", "book", "", "candles", "\ud800"]),
    "channels": st.lists(st.sampled_from(["ticker", "trades", "book"]), max_size=4),
    "from_seq": SEQS | st.dictionaries(PRODUCTS, SEQS, max_size=3),
    "epoch": st.sampled_from([EPOCH, EPOCH + 1, 0, -5, None]),
    "cursor": CURSORS | st.dictionaries(PRODUCTS, CURSORS, max_size=3),
    "mode": st.sampled_from(["full", "latest", "both", None]),
    "max_rate": st.sampled_from([1, 0.001, 1000, 1001, 0, -1, None]),
    "depth": st.sampled_from([0, 1, 100_000, 100_001, -1]),
    "snapshot": st.booleans(),
    "on_unrecoverable": st.sampled_from(["snapshot", "error", "panic"]),
    "batch": st.booleans(),
    "api_key": st.text(max_size=600),
    "ts": ODD,
}


@st.composite
def commands(draw: st.DrawFn) -> str:
    """A command whose fields are mostly right, rarely all of them."""
    kinds = ["subscribe", "subscribe", "subscribe", "unsubscribe", "resync", "ping", "auth", "buy"]
    body: dict[str, Any] = {"type": draw(st.sampled_from(kinds))}
    for name in draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=5)):
        body[name] = draw(st.one_of(FIELDS[name], FIELDS[name], FIELDS[name], ODD))
    text = msgspec.json.encode(_sound(body)).decode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=5).map(_sound)) + text[at + 1 :]
    return text


def _sound(value: Any) -> Any:
    """The value with nothing in it that no JSON text can have, lone surrogates for one."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_sound(one) for one in value]
    if isinstance(value, dict):
        return {_sound(name): _sound(one) for name, one in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(commands() | commands() | st.binary(max_size=60), max_size=25))
async def test_whatever_is_sent_the_gateway_does_not_fail(frames: list[str | bytes]) -> None:
    async with bench(MemoryBroker(), window_bytes=3000, ws_queue_bytes=20_000) as gateway:
        market = gateway.market()
        book = gateway.market("ETH-USD", "book")
        await market.ticks(5)
        await book.publish(book.reset({"bids": [["1", "1"]], "asks": []}))
        async with gateway.client() as client:
            with suppress(ConnectionClosed):
                for number, frame in enumerate(frames):
                    await client.socket.send(frame)
                    if number % 3 == 0:
                        await market.ticks(1)
                        await book.ticks(1)
                await client.send(type="ping", id="fuzz-end")
                await client.until(
                    lambda m: m["type"] in ("pong", "rate_limit") and m.get("id") == "fuzz-end"
                )
        assert client.breaks == []
        assert client.socket.close_code in (1000, 1008)
        assert [m for m in client.messages if m.get("code") == 6000] == []
        async with gateway.client() as other:
            await other.send(type="subscribe", product="BTC-USD")
            await other.of("snapshot")
            await market.ticks(1)
            await other.reach(market)
        assert other.breaks == []
