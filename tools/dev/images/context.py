"""What a Dockerfile's build copies: its COPY lines over the repository less `.dockerignore`.

Only what our Dockerfiles use is understood; anything else is refused rather than guessed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


class NotUnderstood(Exception):
    """A line of a Dockerfile that this reader does not know; the message holds it."""


@dataclass(frozen=True)
class Copy:
    """One COPY line: sources below the context, and where they go below the working folder."""

    sources: tuple[str, ...]
    target: str


class Ignore:
    """`.dockerignore`: the last rule that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        self._rules = [
            (not line.startswith("!"), re.compile(_regex(line.removeprefix("!"))))
            for line in lines
            if line and not line.startswith("#")
        ]

    def excludes(self, path: str) -> bool:
        whole = PurePosixPath(path)
        candidates = [path, *(str(parent) for parent in whole.parents if parent.name)]
        excluded = False
        for excludes, pattern in self._rules:
            if any(pattern.fullmatch(candidate) for candidate in candidates):
                excluded = excludes
        return excluded


def _regex(pattern: str) -> str:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        parts.get(token) or re.escape(token) for token in re.findall(r"\*\*/|\*\*|.", pattern)
    )


def copies(dockerfile: str) -> list[Copy]:
    """The COPY lines of the stage that builds.

    Raises:
        NotUnderstood: a COPY with options, or in the last stage from anything but the build.
    """
    build, _, final = dockerfile.rpartition("\nFROM ")
    if len(re.findall(r"^FROM ", build, re.M)) != 1 or "\nADD " in dockerfile:
        raise NotUnderstood("expected two stages, and COPY only")
    for line in re.findall(r"^COPY .*$", final, re.M):
        if not line.startswith("COPY --from=build "):
            raise NotUnderstood(line)
    found = []
    for line in re.findall(r"^COPY (.*)$", build, re.M):
        *sources, target = line.split()
        if line.startswith("--") or not sources or any("*" in source for source in sources):
            raise NotUnderstood(line)
        found.append(Copy(tuple(sources), target))
    return found


def files_below(root: Path, source: str, ignore: Ignore) -> Iterator[str]:
    """The files that a source stands for, relative to `root`."""
    if (root / source).is_file():
        if not ignore.excludes(source):
            yield source
        return
    for folder, folders, names in os.walk(root / source):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        # A link to a folder is copied as a link, and not what it leads to.
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = (Path(folder) / name).relative_to(root).as_posix()
            if not ignore.excludes(path):
                yield path


def assemble(root: Path, dockerfile: Path, target: Path) -> None:
    """Fill `target` as the working folder of the build stage would be filled.

    Raises:
        NotUnderstood: see `copies`; or a source is not there, at which a build would stop.
    """
    ignore = Ignore((root / ".dockerignore").read_text())
    for copy in copies(dockerfile.read_text()):
        for source in copy.sources:
            files = list(files_below(root, source, ignore))
            if not files:
                raise NotUnderstood(f"COPY {source}: nothing of that name is in the build context")
            into_folder = copy.target.endswith("/") or len(copy.sources) > 1
            for file in files:
                if file == source:
                    to = f"{copy.target}/{PurePosixPath(file).name}" if into_folder else copy.target
                else:
                    to = f"{copy.target}/{PurePosixPath(file).relative_to(source)}"
                (target / to).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / file, target / to, follow_symlinks=False)
