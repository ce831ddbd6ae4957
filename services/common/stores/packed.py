"""What is stored compressed, unpacked as far as anything of ours is large. Pure."""

from __future__ import annotations

import gzip
import zlib

# An archive batch is the largest object (`ARCHIVE_MAX_BYTES`), with its last record, and a few more
# for whoever overlaps. A megabyte of gzip could be a gigabyte.
MAX_UNPACKED_BYTES = 128 * 1024 * 1024
# wbits: a gzip header, and the largest window.
_GZIP = 16 + zlib.MAX_WBITS


def unpacked(stored: bytes) -> bytes:
    """The content of a gzip object, of one member or more.

    Raises:
        zlib.error: it is none.
        EOFError: it is cut off.
        OSError: (`gzip.BadGzipFile`) it has more than `MAX_UNPACKED_BYTES`; no more are held.
    """
    parts: list[bytes] = []
    size = 0
    while stored:
        member = zlib.decompressobj(_GZIP)
        parts.append(member.decompress(stored, MAX_UNPACKED_BYTES - size + 1))
        size += len(parts[-1])
        if size > MAX_UNPACKED_BYTES:
            raise gzip.BadGzipFile(f"more than {MAX_UNPACKED_BYTES} bytes in one object")
        if not member.eof:
            raise EOFError("the object is cut off")
        stored = member.unused_data.lstrip(b"\0")
    return b"".join(parts)
