"""Checks a configuration before, or while, something does not work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`advice` is empty when nothing has to be done."""

    name: str
    level: Level
    detail: str
    advice: str = ""
