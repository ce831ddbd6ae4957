"""What is fuzzed, found by its file's name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_FOLDER = Path(__file__).with_name("targets")


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. `check` takes any bytes and raises when something does not hold of them."""

    name: str
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(_FOLDER)]))


def load(name: str) -> Target:
    """The target in `targets/<name>.py`; imports what it tests."""
    module = import_module(f"tests.fuzz.targets.{name}")
    return Target(name, module.check, module.SEEDS)
