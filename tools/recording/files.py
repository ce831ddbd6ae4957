"""Files of recordings, plain or packed, read to where they end, however they end."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import zstandard

from tools.recording.lines import Connected, Framed, LeftOut, read_line

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
# The longest line that is believed to be a message; the venue's largest has 1.3 MB.
_MAX_LINE = 64 * 1024 * 1024


class Unreadable(Exception):
    """There is nothing to replay in a recording; the text says why."""


class Recording:
    """A recording, read line by line. `left_out` counts, by reason, what was passed over.

    Every iteration reads the file once more, and counts anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        # The first line that was left out, as `line 3: bad_json`.
        self.first: str | None = None

    def leave_out(self, reason: str, number: int) -> None:
        """Count line `number` as passed over."""
        self.left_out[reason] += 1
        if self.first is None:
            self.first = f"line {number}: {reason}"

    def __iter__(self) -> Iterator[tuple[int, Framed | Connected]]:
        """(number, line) of every frame and of every connection after the first.

        Raises:
            OSError: the file cannot be read.
        """
        self.left_out.clear()
        self.first = None
        framed = timed = False
        waiting: int | None = None
        blank: int | None = None
        for number, raw, whole in self._raw_lines():
            line = read_line(raw)
            match line:
                case None:
                    # Beside noted times a blank line is how some mark a lost connection.
                    blank = number if timed and not raw.strip() else blank
                case LeftOut():
                    # A message that ends in the middle is what an ended recorder leaves.
                    cut = not whole and line.reason == "bad_json"
                    self.leave_out("torn" if cut else line.reason, number)
                case Connected():
                    waiting = number
                case Framed():
                    marked = waiting or blank
                    if framed and marked:
                        yield marked, Connected()
                    waiting = blank = None
                    framed = True
                    timed = timed or line.received_us is not None
                    yield number, line

    def _raw_lines(self) -> Iterator[tuple[int, bytes, bool]]:
        """(number, line, whether it was ended)."""
        number = 0
        with self.path.open("rb") as file:
            lines = _unpacked(file)
            while True:
                try:
                    line = lines.readline(_MAX_LINE)
                except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError):
                    # A packed file that was not closed; what came before it is good.
                    self.leave_out("torn", number + 1)
                    return
                if not line:
                    return
                number += 1
                yield number, line, line.endswith(b"\n")


def _unpacked(file: io.BufferedReader) -> io.BufferedIOBase:
    head = file.peek(4)[:4]
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    if head == _ZSTD:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return io.BufferedReader(cast("io.RawIOBase", reader))
    return file
