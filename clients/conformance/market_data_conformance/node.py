"""Where Node.js is, and packages of npm, for the tests that need them; the product needs none."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

WITHOUT_NODE = "Node.js of at least 20 was not found"
PACKAGES = (
    "axe-core@4.11.0",
    "jsdom@26.1.0",
    "react-dom@19.2.0",
    "react@19.2.0",
    "typescript@5.9.3",
    "wscat@6.1.0",
)
_CACHE = Path(__file__).resolve().parents[3] / ".mdf" / "npm"
_OPTIONS = (
    *("--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"),
    *("--fetch-retries=1", "--fetch-timeout=20000"),
)
_PATIENCE_S = 60


def find_node() -> tuple[str, ...] | None:
    """The command that runs Node with a global WebSocket: the machine's own, else Playwright's."""
    for candidate in filter(None, (shutil.which("node"), _playwrights_node())):
        answer = subprocess.run(
            [candidate, "--version"], capture_output=True, text=True, check=False
        )
        major = answer.stdout.strip().removeprefix("v").split(".")[0]
        if major.isdigit() and int(major) >= 20:
            # Before 22 the global WebSocket stands behind a flag.
            return (candidate, "--experimental-websocket") if int(major) < 22 else (candidate,)
    return None


def _playwrights_node() -> str | None:
    try:
        import playwright
    except ImportError:
        return None
    node = Path(playwright.__file__).parent / "driver" / "node"
    return str(node) if node.exists() else None


class Unavailable(Exception):
    """The packages could not be had; the message says why."""


@functools.cache
def node_modules() -> Path:
    """The folder that holds `PACKAGES`; filled on the first call, and kept for later runs.

    Raises:
        Unavailable: there is no Node or npm, or its registry does not answer.
    """
    wanted = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:12]
    found = _CACHE / wanted / "node_modules"
    if found.exists():
        return found
    npm = shutil.which("npm")
    if find_node() is None or npm is None:
        raise Unavailable(f"{WITHOUT_NODE}, or it has no npm")
    _CACHE.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, also when two runs want it at the same time.
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        _install(npm, Path(folder))
        try:
            os.rename(folder, _CACHE / wanted)
        except OSError:
            if not found.exists():
                raise
        Path(folder).mkdir(exist_ok=True)
    return found


def _install(npm: str, folder: Path) -> None:
    try:
        answer = subprocess.run(
            (npm, "install", *_OPTIONS, "--prefix", str(folder), *PACKAGES),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"npm installed nothing within {_PATIENCE_S} s") from error
    if answer.returncode:
        raise Unavailable(f"npm could not install what the test needs: {answer.stderr[-500:]}")


def lay_out(folder: Path, sources: dict[str, Path]) -> None:
    """Give `folder` a node_modules with `PACKAGES` and copies of the packages in `sources`.

    Copies, because Node looks for a package's own imports from where its files really are.

    Raises:
        Unavailable: as `node_modules`.
    """
    target = folder / "node_modules"
    target.mkdir()
    for package in PACKAGES:
        name = package.rpartition("@")[0]
        (target / name).symlink_to(node_modules() / name)
    for name, source in sources.items():
        shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("tests"))


if __name__ == "__main__":
    print(" ".join(find_node() or ("node",)))
