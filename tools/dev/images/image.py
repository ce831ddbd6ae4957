"""An image by its Dockerfile: what its build copies, and what is then in it.

What is copied are its COPY lines over the repository less `.dockerignore`. Only what our
Dockerfiles use is understood; anything else is refused rather than guessed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.dev.charts.workspace import ROOT, SERVICES
from tools.dev.images.environment import Environment, build_wheel


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


@dataclass(frozen=True)
class Image:
    """`packages` are what it runs; every module below them has to be importable in it.

    The parts of `services.common` that a service does not import may want packages that its image
    does not have. The brokers' drivers are imported only once the settings name one.
    """

    name: str
    dockerfile: Path
    packages: tuple[str, ...]

    @property
    def entry(self) -> str:
        """The module that its ENTRYPOINT starts, as process 1.

        Raises:
            NotUnderstood: it starts something else.
        """
        text = self.dockerfile.read_text()
        found = re.search(r'^ENTRYPOINT \["python", "-m", "([\w.]+)"\]$', text, re.M)
        if found is None:
            raise NotUnderstood(f"{self.dockerfile}: its ENTRYPOINT starts no module")
        return found[1]

    @property
    def requirements(self) -> Path:
        return ROOT / "requirements" / f"{self.name}.txt"


IMAGES = (
    *(
        Image(
            name,
            ROOT / "services" / name / "Dockerfile",
            (f"services.{name}", "services.common.stream"),
        )
        for name in SERVICES
    ),
    Image("tools", ROOT / "tools" / "Dockerfile", ("tools",)),
)


@dataclass(frozen=True)
class Made:
    """An image as far as it can be made here: its environment, and the files of its wheel."""

    environment: Environment
    files: list[str]


def make(
    image: Image, folder: Path, *, fill: Callable[[Environment, Path], None] = Environment.link
) -> Made:
    """Go through the Dockerfile's steps below `folder`; `fill` brings the packages.

    Raises:
        NotUnderstood: the Dockerfile has a line that is not known here.
        PinNotHere, NotInstallable: the packages cannot be brought.
    """
    environment = Environment(folder / "app")
    fill(environment, image.requirements)
    with tempfile.TemporaryDirectory() as work:
        source, dist = Path(work, "build"), Path(work, "dist")
        source.mkdir()
        assemble(ROOT, image.dockerfile, source)
        files = environment.unpack(build_wheel(source, dist))
    return Made(environment, files)
