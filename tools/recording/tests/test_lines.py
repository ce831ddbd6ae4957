"""Lines as public recorders write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tools.recording import Connected, Framed, LeftOut, Recording, read_line

FRAME = '{"type":"match","trade_id":7,"product_id":"BTC-USD","time":"2026-07-07T22:59:24.000000Z"}'
ROW = '["noop","BTC-USD","7","2026-07-07T22:59:24.000000Z"]'
AT_US = 1_783_465_164_123_456
ENVELOPED = json.loads(FRAME)


@pytest.mark.parametrize("frame", [FRAME, ROW])
@pytest.mark.parametrize(
    ("before", "received"),
    [
        ("", None),
        ("1783465164.123456 ", AT_US),
        ("1783465164.123456: ", AT_US),
        ("1783465164123\t", AT_US // 1000 * 1000),
        ("1783465164123.456,", AT_US),
        ("1783465164123456\t", AT_US),
        ("1783465164123456789 ", AT_US),
        ("[1783465164] ", AT_US // 1_000_000 * 1_000_000),
        ("2026-07-07T22:59:24.123456Z ", AT_US),
        ("2026-07-07T22:59:24.1234567Z ", AT_US),
        ("2026-07-07 22:59:24.123456\t", AT_US),
        ("2026-07-08T00:59:24.123456+02:00 | ", AT_US),
        ("2026-07-07T22:59:24.123456Z recv < ", AT_US),
        ("BTC-USD ", None),
    ],
)
def test_a_frame_with_or_without_a_time_in_front(
    before: str, received: int | None, frame: str
) -> None:
    if before.startswith("["):
        # A bracket opens an array; nobody could tell it from a pair that was cut.
        assert read_line((before + frame).encode()) == LeftOut("bad_json")
        return
    assert read_line((before + frame).encode()) == Framed(frame.encode(), received)


@pytest.mark.parametrize(
    "line",
    [
        {"ts": AT_US, "frame": ENVELOPED},
        {"dir": "recv", "ts": AT_US / 1e6, "frame": ENVELOPED},
        {"received_at": "2026-07-07T22:59:24.123456Z", "message": FRAME},
        {"timestamp": str(AT_US), "data": ENVELOPED},
        {"type": "message", "ts": AT_US, "raw": FRAME},
        [AT_US, ENVELOPED],
        ["2026-07-07T22:59:24.123456Z", FRAME],
    ],
)
def test_a_frame_inside_an_object_or_a_pair(line: object) -> None:
    read = read_line(json.dumps(line).encode())
    assert isinstance(read, Framed)
    assert json.loads(read.body) == ENVELOPED
    assert read.received_us == AT_US


@pytest.mark.parametrize(
    "line",
    [
        "wss://ws-feed.exchange.coinbase.com <-> 1618677816.8434298",
        "# reconnect",
        "2026-07-07T22:59:24Z connected to wss://ws-feed",
        "--- disconnected ---",
        '{"dir":"connect","ts":1786310818.228147,"frame":null}',
        '{"event":"reconnected","ts":1786310818.228147}',
        '{"type":"connected"}',
    ],
)
def test_a_new_connection(line: str) -> None:
    assert read_line(line.encode()) == Connected()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (FRAME[:-5], "bad_json"),
        ("nonsense", "bad_json"),
        ("2026-07-07T22:59:24Z", "no_message"),
        ('{"type":"subscribe","product_ids":["BTC-USD"]}', "sent"),
        ('{"dir":"send","ts":1786310819.2,"frame":{"type":"subscribe"}}', "sent"),
        ("wss://x <- 1618677817.02: " + '{"type":"subscribe"}', "sent"),
        ('{"a":1}', "no_type"),
        ("[1,2,3]", "no_type"),
        ("[]", "no_type"),
        ('{"ts":1,"frame":"no json"}', "bad_json"),
    ],
)
def test_what_is_no_message_is_left_out_with_a_reason(line: str, reason: str) -> None:
    assert read_line(line.encode()) == LeftOut(reason)


def test_an_error_of_the_venue_is_a_frame_of_its_own() -> None:
    error = b'{"type":"error","message":"Failed to subscribe","reason":"{ rate }"}'
    assert read_line(error) == Framed(error, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_something(raw: bytes) -> None:
    read = read_line(raw)
    assert read is None or isinstance(read, Framed | Connected | LeftOut)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@given(json_values, st.sampled_from(["frame", "data", "type", "ts", "dir"]), json_values)
def test_any_object_is_something(one: object, name: str, other: object) -> None:
    for value in (one, {name: one, "type": other}, {name: other}, [one, other]):
        read = read_line(msgspec.json.encode(value))
        assert read is None or isinstance(read, Framed | Connected | LeftOut)


# ---------------------------------------------------------------- files


LINES = [FRAME.replace("7,", f"{number},", 1) for number in range(50)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_is_read_however_it_is_packed(tmp_path: Path, pack: type[bytes], end: str) -> None:
    path = tmp_path / "recording"
    path.write_bytes(pack(end.join(LINES).encode()))
    recording = Recording(path)
    for _ in range(2):
        read = list(recording)
        assert [line.body.decode() for _, line in read if isinstance(line, Framed)] == LINES
        assert recording.left_out == {}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("cut", [1, 7, 40, 200])
def test_a_torn_file_is_read_as_far_as_it_goes(tmp_path: Path, pack: type[bytes], cut: int) -> None:
    path = tmp_path / "recording"
    path.write_bytes(pack("\n".join(LINES).encode())[:-cut])
    recording = Recording(path)
    bodies = [line.body.decode() for _, line in recording if isinstance(line, Framed)]
    assert bodies == LINES[: len(bodies)]
    assert sum(recording.left_out.values()) <= 1
    assert set(recording.left_out) <= {"torn"}


def test_a_json_array_over_many_lines_is_a_recording_too(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("[\n" + ",\n".join(LINES) + "\n]\n")
    recording = Recording(path)
    assert len(list(recording)) == len(LINES)
    assert recording.left_out == {}


def test_connections_before_the_first_frame_and_blank_lines_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text(
        "\n".join(["# connected", "", FRAME, "", FRAME, "# reconnected", "", FRAME, ""])
    )
    kinds = [type(line).__name__ for _, line in Recording(path)]
    assert kinds == ["Framed", "Framed", "Connected", "Framed"]


def test_beside_times_a_blank_line_between_two_frames_is_a_lost_connection(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    timed = f"2026-07-07T22:59:24.123456Z {FRAME}"
    path.write_text(f"{timed}\n\n{timed}\n\n")
    assert [type(line).__name__ for _, line in Recording(path)] == [
        "Framed",
        "Connected",
        "Framed",
    ]


@pytest.mark.parametrize(
    "noted", ["0001-01-01T00:00:00+10:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-10:00"]
)
def test_a_time_that_nobody_recorded_at_is_none(noted: str) -> None:
    found = read_line(f"{noted} {FRAME}".encode())
    assert isinstance(found, Framed)
    assert found.received_us is None or found.received_us > 0
