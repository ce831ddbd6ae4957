"""The environment that an image's build makes: its pins and its wheel, in a fresh Python."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

from tools.dev.captured import captured

# Imports the packages named, all that is below them, and prints the failures as JSON.
_IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed, count = {}, 0
def names(root):
    yield root
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + ".", onerror=lambda name: None):
        yield module.name
for root in sys.argv[1:]:
    for name in names(root):
        if name.endswith(".__main__"):
            continue
        try:
            importlib.import_module(name)
            count += 1
        except ImportError as error:
            failed[name] = str(error)
print(json.dumps({"imported": count, "failed": failed}))
"""


class PinNotHere(Exception):
    """A pin of the image is not what is installed here; the message says which."""


def _places(distribution: importlib.metadata.Distribution) -> set[PurePosixPath]:
    """What it brings: whole folders where nobody else puts files into them, else single files."""
    places = set()
    for file in distribution.files or ():
        # Programs and data beside the packages: no module is imported from there.
        if ".." not in file.parts:
            top = file.parts[0]
            alone = len(_owners().get(top, [])) == 1 or top.endswith(".dist-info")
            places.add(PurePosixPath(top if alone else file))
    return places


@functools.cache
def _owners() -> dict[str, set[str]]:
    """Which distributions bring a top-level package: several, if it is a namespace."""
    found = importlib.metadata.packages_distributions()
    return {name: set(distributions) for name, distributions in found.items()}


class NotInstallable(Exception):
    """The index has no wheel of the pinned hash for some pin; the message is the installer's."""


@dataclass(frozen=True)
class Imports:
    """`failed` tells by module why it could not be imported."""

    imported: int
    failed: dict[str, str]


class Environment:
    """A Python of its own below `folder`, without pip and without anything else."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = folder / "lib" / version / "site-packages"

    def link(self, requirements: Path) -> None:
        """Give it the pinned packages, from where they are installed here.

        Raises:
            PinNotHere: one is not installed, or in another version.
        """
        for requirement in pins(requirements):
            try:
                found = importlib.metadata.distribution(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                raise PinNotHere(f"{requirement} is not installed here") from None
            if not requirement.specifier.contains(found.version, prereleases=True):
                raise PinNotHere(f"{requirement} is pinned, {found.version} is installed")
            for name in _places(found):
                target = self.packages / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(str(found.locate_file(name)))

    def install(self, requirements: Path) -> None:
        """Give it the pinned packages from the index, as a Dockerfile does: by hash, wheels only.

        Raises:
            NotInstallable: one cannot be had.
        """
        _uv("install", "--python", str(self.python), *_BY_HASH, str(requirements))

    def unpack(self, wheel: Path) -> list[str]:
        """Install a wheel of pure Python; its files."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.packages)
            return archive.namelist()

    def import_all(self, *packages: str) -> Imports:
        """Import every module of these packages but `__main__`."""
        done = self.run("-c", _IMPORT_ALL, *packages)
        if done.returncode:
            raise ImportError(done.stderr[-2000:])
        return Imports(**json.loads(done.stdout))

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """This Python with these arguments, and of the environment only what is given."""
        env = {"PATH": os.defpath, **variables}
        return captured(self.python, *arguments, cwd=self.packages.parent, env=env)


_BY_HASH = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement")


def wheels_for(platform: str, requirements: Path, python: Path) -> None:
    """Whether every pin can be had for a platform such as `aarch64-manylinux_2_28`.

    Raises:
        NotInstallable: one cannot.
    """
    _uv(
        *("install", "--dry-run", "--python", str(python), "--python-platform", platform),
        *(*_BY_HASH, str(requirements)),
    )


def _uv(*arguments: str) -> None:
    done = captured(sys.executable, "-m", "uv", "pip", *arguments, "--quiet")
    if done.returncode:
        raise NotInstallable(done.stderr.strip())


def pins(requirements: Path) -> Iterator[Requirement]:
    """The pinned packages that are for this machine."""
    for line in requirements.read_text().splitlines():
        if line and not line.startswith(("#", " ")):
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def build_wheel(source: Path, target: Path) -> Path:
    """The wheel that a build makes of its working folder."""
    captured(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--wheel-dir", target, source),
    ).check_returncode()
    (wheel,) = target.glob("*.whl")
    return wheel
