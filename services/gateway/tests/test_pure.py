"""Windows, outboxes, buckets, frames, conflation, keys: fed and asked."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from websockets.frames import Frame
from websockets.streams import StreamReader

from services.common.observability.health import Health
from services.common.stream import Position
from services.common.wire import Fields
from services.gateway.admission.auth import KeyRing, offered_key
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.chain.window import Budget, Window
from services.gateway.fanout.outbox import Outbox
from services.gateway.metrics import Metrics
from services.gateway.protocol import (
    ERROR_CODES,
    Problem,
    Subscribe,
    make_cursor,
    parse_command,
    parse_cursor,
    parse_json,
)
from services.gateway.settings import GatewaySettings
from services.gateway.streams.state_store import StateStore
from services.gateway.testing import Market, Rows, small_settings
from services.gateway.websocket.rfc6455.frames import (
    array_frames,
    payloads_of,
    text_frame,
    text_frames,
)


@given(st.lists(st.integers(0, 300) | st.integers(65_530, 65_540), max_size=6))
def test_frames_hold_the_messages_they_were_made_of(sizes: list[int]) -> None:
    payloads = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    assert payloads_of(text_frames(payloads)) == payloads


@given(st.lists(st.integers(1, 400), max_size=40), st.integers(1, 1000))
def test_array_frames_hold_every_message_in_order_and_no_more_than_they_may(
    sizes: list[int], most: int
) -> None:
    payloads = [
        msgspec.json.encode({"n": number, "x": "x" * size}) for number, size in enumerate(sizes)
    ]
    found: list[bytes] = []
    for frame in payloads_of(array_frames(payloads, most)):
        if frame.startswith(b"["):
            parts = [bytes(part) for part in msgspec.json.decode(frame, type=list[msgspec.Raw])]
            assert len(parts) > 1
            assert sum(map(len, parts)) <= most
            found += parts
        else:
            found.append(frame)
    assert found == payloads


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_frame_is_what_a_websocket_library_reads(size: int) -> None:
    reader = StreamReader()
    reader.feed_data(text_frame(b"x" * size))
    parsing = Frame.parse(reader.read_exact, mask=False, max_size=None)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    frame = done.value.value
    assert (frame.opcode, frame.fin, len(frame.data)) == (1, True, size)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 400), st.sampled_from(["tick", "tick", "tick", "status", "reset"])
        ),
        max_size=200,
    ),
    st.integers(0, 40_000),
    st.integers(0, 40_000),
)
def test_a_window_is_contiguous_and_within_its_bounds_and_gives_what_came(
    records: list[tuple[int, str]], own: int, total: int
) -> None:
    budget = Budget(total)
    window, other = Window(budget, own), Window(budget, own)
    market = Market(None)
    market.clock = lambda: 1
    mine = []
    for index, (size, kind) in enumerate(records):
        if kind == "tick":
            record = market.tick(Fields(volume_30d="1" * size))
        elif kind == "status":
            record = market.status()
        else:
            record = market.reset(repair="none")
        if index % 3:
            mine.append((record.payload, StreamRecord(record.payload).messages()))
        (window if index % 3 else other).append(StreamRecord(record.payload))
    held = list(window)
    # Whether it has its own bytes or its place in the joined frames, a record is what it was.
    assert [(e.payload, e.messages()) for e in held] == mine[len(mine) - len(held) :]
    assert window.size <= own
    assert budget.used == window.size + other.size <= total
    for index, entry in enumerate(held):
        assert window.covers(entry.position)
        rest = [message for later in held[index + 1 :] for message in later.messages()]
        assert list(payloads_of(_sent_after(window, entry.position))) == rest
        first = next((later for later in held[index + 1 :] if later.chained), None)
        assert window.first_after(entry.position) is first
    if len(held) < len(mine):
        assert not window.covers(Position(0, 0))


def _sent_after(window: Window, position: Position) -> bytes:
    frames = b""
    while (run := window.run_after(position)) is not None:
        assert run.chained == sum(entry.chained for entry in run.records)
        own = text_frames(message for entry in run.records for message in entry.messages())
        frames += own if run.frames is None else run.frames
        assert run.frames in (None, own)
        position = run.records[-1].position
    return frames


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "put", "control", "take"]), st.integers(1, 5000)),
        max_size=100,
    )
)
def test_an_outbox_keeps_order_and_its_bound_and_control_goes_first(
    steps: list[tuple[str, int]],
) -> None:
    outbox = Outbox(limit=8000)
    data = written = b""
    for number, (name, size) in enumerate(steps):
        piece = b"d%d;" % number + b"." * size
        if name == "offer":
            fits = outbox.size + len(piece) <= 8000
            assert outbox.offer(piece) == fits
            data += piece if fits else b""
        elif name == "put":
            outbox.put(piece)
            data += piece
        elif name == "control":
            outbox.put_control(b"c%d;" % number)
        else:
            control = b"".join(outbox.control)
            taken = b"".join(outbox.drain(size))
            assert taken.startswith(control)
            written += taken.removeprefix(control)
            assert outbox.control_size == 0
        assert outbox.size == len(data) - len(written)
        assert data.startswith(written)


def test_keys_are_accepted_plain_or_hashed() -> None:
    digest = hashlib.sha256(b"two").hexdigest()
    ring = KeyRing(["one", f"sha256:{digest}"])
    assert ring.grant("one")
    assert ring.grant("two")
    assert not ring.grant("three")
    assert not ring.grant(f"sha256:{digest}")
    assert KeyRing([]).open
    assert offered_key({"authorization": "Basic x"}, "") is None


def test_production_refuses_to_start_open() -> None:
    with pytest.raises(ValidationError, match="AUTH_API_KEYS"):
        small_settings(environment="production", broker_kind="nats")
    settings = small_settings(environment="production", broker_kind="nats", auth_api_keys="k")
    assert isinstance(settings, GatewaySettings)
    assert "k" not in repr(settings.auth_api_keys)


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_cursor_comes_back_as_it_was_made(epoch: int, seq: int) -> None:
    assert parse_cursor(make_cursor(epoch, seq)) == (seq, epoch)


@pytest.mark.parametrize(
    "text", ["01.2", "1.02", "١.2", "1.²", "1.2\n", "1._2", "9223372036854775808.0", "0.-1"]
)
def test_no_other_text_is_a_cursor(text: str) -> None:
    with pytest.raises(Problem, match="cursor"):
        parse_cursor(text)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_is_a_command_or_a_problem(text: str) -> None:
    # Anything else would be an error of ours and fail here.
    with suppress(Problem):
        parse_command(parse_json(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
command_fields = st.sampled_from(
    [*Subscribe.model_fields, "api_key", "ts", "type", "products", "nonsense"]
)


@given(
    st.sampled_from(["subscribe", "unsubscribe", "resync", "ping", "auth", "", "x"]),
    st.dictionaries(command_fields, json_values, max_size=6),
)
def test_any_object_is_a_command_or_a_problem(kind: str, fields: dict[str, object]) -> None:
    value = {"type": kind, **fields}
    with suppress(Problem):
        parse_command(value)


def test_error_codes_are_unique() -> None:
    assert len({row.code for row in ERROR_CODES}) == len(ERROR_CODES) == 22


async def test_a_store_that_does_not_answer_is_left_alone_for_a_while() -> None:
    now = [0.0]
    rows, health = Rows(), Health("gateway")
    rows.away = True
    stores = StateStore(rows, rows, health, Metrics(), clock=lambda: now[0])
    key = Market(None).key
    assert await stores.base(key, 0) is None
    assert "stores" in health.report()["degraded"]
    rows.away = False
    assert await stores.known([key]) is None
    assert "stores" in health.report()["degraded"], "not asked again yet"
    now[0] += 60
    assert await stores.known([key]) == []
    assert health.report()["degraded"] == {}
