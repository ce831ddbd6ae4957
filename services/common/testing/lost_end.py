"""A real Valkey that lost the newest part of what it had acknowledged, as a late replica has."""

from __future__ import annotations

import os
from pathlib import Path

from tools.embedded import ValkeyServer


def end_of(valkey: ValkeyServer) -> tuple[Path, int]:
    """Where its file of commands ends now."""
    [file] = (valkey.data_dir / "appendonlydir").glob("*.incr.aof")
    return file, file.stat().st_size


async def go_back(valkey: ValkeyServer, end: tuple[Path, int]) -> None:
    """Kill it, take away what came behind `end`, and start it again."""
    await valkey.kill()
    os.truncate(*end)
    await valkey.start()
