"""Runs programs, and the examples of a Markdown page as they are written."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What the pages call a local gateway.
WRITTEN = "127.0.0.1:8080"


def examples(page: Path, language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return [code for name, code in _BLOCK.findall(page.read_text()) if name == language]


async def run_program(
    *command: str,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 90.0,
) -> tuple[int, str]:
    """Run a program; its exit status and all its output.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    # Open and silent, as a terminal is that nobody types into.
    reading, writing = os.pipe()
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    return done.returncode, done.stdout.decode()


async def run_example(
    code: str,
    command: tuple[str, ...],
    suffix: str,
    port: int,
    *,
    environment: Mapping[str, str] | None = None,
    packages: Mapping[str, Path] | None = None,
) -> tuple[int, str]:
    """Run an example against the gateway on `port`, as `run_program` does.

    `packages` are JavaScript packages by name, as if they were installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"example{suffix}"
        file.write_text(code.replace(WRITTEN, f"127.0.0.1:{port}"))
        for name, source in (packages or {}).items():
            installed = Path(folder) / "node_modules" / name
            installed.parent.mkdir(exist_ok=True)
            installed.symlink_to(source)
        return await run_program(*command, str(file), environment=environment, seconds=40)
