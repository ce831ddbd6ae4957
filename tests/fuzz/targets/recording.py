"""A line of a public recorder: a frame, a connection, or a reason; and files that end anywhere.

A frame is JSON of the venue, in UTF-8, and its time is one that a log can hold.
"""

from __future__ import annotations

import gzip
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import zstandard

from tools.recording import Connected, Framed, LeftOut, Recording, read_line
from tools.replay.records import BadSource
from tools.replay.records import read_line as read_archived

_FOLDER = tempfile.TemporaryDirectory(prefix="mdf-fuzz-")
_FILE = Path(_FOLDER.name) / "recording"


def _good(frame: Framed) -> None:
    assert isinstance(msgspec.json.decode(frame.body), dict | list)
    assert frame.received_us is None or 0 <= frame.received_us < 2**63


def check(data: bytes) -> None:
    how, body = data[:1], data[1:]
    for raw in body.splitlines():
        line = read_line(raw)
        assert line is None or isinstance(line, Framed | Connected | LeftOut)
        if isinstance(line, Framed):
            _good(line)
        with suppress(BadSource):
            assert read_archived(raw).payload == raw
    packed = {b"g": gzip.compress(body, 1, mtime=0), b"z": zstandard.compress(body, 1)}
    _FILE.write_bytes(packed.get(how, body))
    recording = Recording(_FILE)
    lines = list(recording)
    assert [number for number, _ in lines] == sorted(number for number, _ in lines)
    assert (recording.first is None) == (not recording.left_out)


_TICKER = b'{"type":"ticker","product_id":"BTC-USD"}'
SEEDS = (
    b"p" + _TICKER + b"\n" + _TICKER + b"\n",
    b"p1783000000.5\t" + _TICKER + b"\n1783000000500 " + _TICKER + b"\n\n1783000000600 " + _TICKER,
    b"p2026-07-07T22:58:17.050195+02:00 " + _TICKER + b"\n2026-07-07 22:58:17,05: " + _TICKER,
    b'p{"ts":1783000000.5,"msg":' + _TICKER + b"}\n",
    b'p{"time":"2026-07-07T22:58:17Z","dir":"recv","data":"{\\"type\\":\\"match\\"}"}\n',
    b"p[1783000000500," + _TICKER + b']\n["open","BTC-USD","137"]\n',
    b'p{"dir":"send","raw":{"type":"subscribe"}}\n{"event":"connected"}\ndisconnected\n',
    # Before the first year there is, in UTC.
    b"p0001-01-01T00:00:00+10:00 " + _TICKER,
    b"g" + _TICKER + b"\n" + _TICKER[:10],
    b"z" + _TICKER + b"\n",
    b"p" + gzip.compress(_TICKER, mtime=0)[:30],
    b"p\x28\xb5\x2f\xfd\x00",
    (
        b'p{"v":1,"kind":"frame","venue":"coinbase","channel":"ticker","product":"A","epoch":3,'
        b'"seq":9,"sub":0,"prev":8,"ts_recv":5,"line":"a","body":{}}\n'
    ),
)
