"""An image by its Dockerfile: what it is built from, and what is in it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.dev.charts.workspace import ROOT, SERVICES
from tools.dev.images.context import NotUnderstood, assemble
from tools.dev.images.environment import Environment, build_wheel


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
