"""Reads a commented values.yaml: the defaults and what its `# --` comments say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_LINE = re.compile(r"^(?P<indent> *)(?:# -- (?P<text>.*)|(?P<key>[A-Za-z_][\w.]*):)")


@dataclass(frozen=True, slots=True)
class Values:
    """`comments` are keyed by dotted path, as `helm --set` writes it."""

    defaults: dict[str, Any]
    comments: dict[str, str]

    def meaning(self, path: str) -> str:
        """The comment of a value, or of what it is part of; empty if there is none."""
        while path not in self.comments and "." in path:
            path = path.rpartition(".")[0]
        return self.comments.get(path, "")


def read_values(file: Path) -> Values:
    """Block style only: a comment belongs to the key on the line below it."""
    text = file.read_text()
    comments: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    pending = ""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            pending = ""
            continue
        if found["text"] is not None:
            pending = found["text"]
            continue
        indent = len(found["indent"])
        path = [(depth, key) for depth, key in path if depth < indent]
        path.append((indent, found["key"]))
        if pending:
            comments[".".join(key for _, key in path)] = pending
            pending = ""
    return Values(yaml.safe_load(text), comments)
