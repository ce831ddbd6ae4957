"""The C programs of the benchmark, compiled when they are needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent.parent / "native"
# Ignored by git and removed by `make clean`.
_BUILT = Path(__file__).parents[3] / ".mdf" / "native"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class NoCompiler(Exception):
    """There is no C compiler on this machine, or it cannot compile this."""


def program(name: str) -> Path:
    """The executable of `native/<name>.c`, compiled unless that was done before.

    Raises:
        NoCompiler: it cannot be made here.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("no C compiler was found; on Debian: apt-get install gcc libc6-dev")
    source = _SOURCES / f"{name}.c"
    mark = hashlib.sha256(repr((compiler, _FLAGS)).encode() + source.read_bytes()).hexdigest()
    built = _BUILT / f"{name}-{mark[:16]}"
    if not built.exists():
        _BUILT.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once; each moves a whole file into place.
        handle, made = tempfile.mkstemp(dir=_BUILT)
        os.close(handle)
        done = subprocess.run(
            [compiler, *_FLAGS, "-o", made, str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            Path(made).unlink()
            raise NoCompiler(f"{compiler} cannot compile {source.name}:\n{done.stderr}")
        Path(made).replace(built)
    return built
