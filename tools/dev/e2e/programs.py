"""The programs of others that a run needs: found or named, run with what they did on record."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools.dev.captured import captured
from tools.dev.charts.workspace import HelmFailed, helm_binary

WHERE = {
    "docker": "https://docs.docker.com/engine/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
}


class Missing(Exception):
    """What this machine lacks, one line each."""


class ProgramFailed(Exception):
    """A program ended with an error, or took too long; `output` is what it wrote."""

    def __init__(self, command: tuple[str, ...], how: str, output: str) -> None:
        self.command = command
        self.output = output
        super().__init__(f"{' '.join(command)}: {how}\n{output.strip()[-3000:]}")


class Programs:
    """Runs docker, kind, kubectl and helm; kubectl and helm see only the cluster of `kubeconfig`.

    `echo` is told of each command that ended well, and how long it took.

    Raises:
        Missing: one of them is not on this machine, or docker has no engine.
    """

    def __init__(self, kubeconfig: Path, *, echo: Callable[[str], None]) -> None:
        self.kubeconfig = kubeconfig
        self._echo = echo
        self._paths = {name: shutil.which(name) for name in WHERE}
        lacking = [
            f"{name} was not found on PATH; see {WHERE[name]}"
            for name, path in self._paths.items()
            if path is None
        ]
        try:
            self._paths["helm"] = helm_binary()
        except HelmFailed as error:
            lacking.append(str(error))
        if lacking:
            raise Missing("\n".join(lacking))
        try:
            self.run("docker", "info", "--format", "{{.ServerVersion}}", patience=30)
        except ProgramFailed as error:
            raise Missing(f"docker has no engine to talk to: {error.output.strip()}") from error

    def run(
        self, name: str, *arguments: str, given: str | None = None, patience: float = 300
    ) -> str:
        """What the program wrote to standard output.

        `given` is its standard input, `patience` the seconds until it is ended.

        Raises:
            ProgramFailed: it ended with another status than 0, or not in time.
        """
        command = (name, *arguments)
        began = time.monotonic()
        try:
            env = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
            program = self._paths[name] or name
            done = captured(program, *arguments, input=given, env=env, timeout=patience)
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(command, f"not done after {patience:.0f} s", "") from error
        if done.returncode:
            how = f"status {done.returncode}"
            raise ProgramFailed(command, how, done.stderr + done.stdout)
        self._echo(f"{time.monotonic() - began:6.1f} s  {' '.join(command)}")
        return done.stdout


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
