"""A program of others, run to its end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def captured(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """What it came to, whatever its status: what it wrote as text. `options` are `run`'s."""
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
