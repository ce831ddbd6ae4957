"""`python -m tools.dev.charts`: everything that can be checked of the charts without a cluster.

One line for each check, status 1 if one failed. `--write` renders what is generated first: the
schemas, tables and settings of the charts, and `k8s/`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tools.dev.charts.kubernetes import pods, validate, violations
from tools.dev.charts.values import readmes, schemas, settings_files
from tools.dev.charts.workspace import (
    CHARTS,
    PROFILES,
    ROOT,
    UMBRELLA,
    Helm,
    HelmFailed,
    Object,
    Workspace,
    manifests,
)
from tools.dev.generated import outdated, write

# The least that the charts ask for (kubeVersion), what most run, and a new one.
KUBERNETES = ("1.30", "1.33", "1.36")


class Report:
    """Prints a line for each check; remembers how many failed, and how many objects there were."""

    def __init__(self) -> None:
        self.failed = 0
        self.passed = 0
        self.objects = 0

    @contextmanager
    def check(self, title: str) -> Iterator[Callable[[str], None]]:
        """Run a check; the block may say a result, and fails by HelmFailed or Fault."""
        words: list[str] = []
        try:
            yield words.append
        except (HelmFailed, Fault) as error:
            self.failed += 1
            print(f"FAIL  {title}\n{error}")
        else:
            self.passed += 1
            print(f"ok    {title:<62} {' '.join(words)}")


class Fault(Exception):
    """A check found something; the message says what."""


def compare(report: Report, title: str, expected: dict[str, str], folder: str = "") -> None:
    """Fail unless the files are as expected and, in `folder`, no other stands beside them."""
    with report.check(title) as say:
        stale = outdated(expected)
        if folder:
            present = {str(file.relative_to(ROOT)) for file in (ROOT / folder).glob("*.yaml")}
            stale += sorted(present - set(expected))
        if stale:
            raise Fault(f"not what the charts give; run `make manifests`: {', '.join(stale)}")
        say(f"{len(expected)} files")


def validate_all(report: Report, rendered: dict[str, list[Object]]) -> None:
    for version in KUBERNETES:
        with report.check(f"Kubernetes {version} schemas, strict") as say:
            verdicts = {name: validate(objects, version) for name, objects in rendered.items()}
            faults = [f"{name}: {text}" for name, v in verdicts.items() for text in v.problems]
            if faults:
                raise Fault("\n".join(faults))
            say(f"{sum(v.checked for v in verdicts.values())} objects")
            unknown = sorted(set().union(*(v.unknown for v in verdicts.values())))
            if unknown:
                say(f"(no schema for {', '.join(unknown)})")


def secure_all(report: Report, rendered: dict[str, list[Object]]) -> None:
    with report.check("Pod Security restricted, read-only roots") as say:
        found = [(name, pod) for name, objects in rendered.items() for pod in pods(objects)]
        faults = [f"{name}: {pod.owner}: {text}" for name, pod in found for text in violations(pod)]
        if faults:
            raise Fault("\n".join(faults))
        say(f"{len(found)} pods")


def render_all(report: Report, workspace: Workspace) -> dict[str, list[Object]]:
    """Every chart alone, and the umbrella with the values of each profile."""
    jobs: dict[str, tuple[str, tuple[Path | str, ...]]] = {chart: (chart, ()) for chart in CHARTS}
    jobs |= {name: (UMBRELLA, workspace.profile(name)) for name in PROFILES}
    rendered: dict[str, list[Object]] = {}
    with ThreadPoolExecutor() as pool:
        lints = {n: pool.submit(workspace.lint, c, *files) for n, (c, files) in jobs.items()}
        renders = {n: pool.submit(workspace.render, c, *files) for n, (c, files) in jobs.items()}
        for name, (chart, _) in jobs.items():
            title = f"{chart} alone" if name == chart else f"{chart}: {name}"
            with report.check(f"lint and render {title}") as say:
                lints[name].result()
                rendered[name] = renders[name].result()
                report.objects += len(rendered[name])
                say(f"{len(rendered[name])} objects")
    return rendered


def check(report: Report, workspace: Workspace, *, rewrite: bool) -> None:
    """Run the checks in order; what cannot be built or rendered ends them."""
    generated = {
        "README.md of the charts as values.yaml says": readmes(workspace),
        "settings.txt as the services' settings say": settings_files(workspace),
        "values.schema.json as values and settings say": schemas(workspace),
    }
    for title, files in generated.items():
        if rewrite:
            # Before the build: they are part of what is packed.
            print(f"wrote {write(files)} of {len(files)} files")
        compare(report, title, files)
    with report.check("helm dependency build, offline") as say:
        say(f"{workspace.build()} charts, helm {workspace.helm.version()}")
    rendered = render_all(report, workspace)
    if len(rendered) < len(CHARTS) + len(PROFILES):
        return
    validate_all(report, rendered)
    secure_all(report, rendered)
    plain = {f"k8s/{name}": text for name, text in manifests(workspace).items()}
    if rewrite:
        print(f"wrote {write(plain)} of {len(plain)} files")
    compare(report, "k8s/ as the umbrella renders it", plain, "k8s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.dev.charts", description=__doc__)
    parser.add_argument("--write", action="store_true", help="render what is generated first")
    rewrite = parser.parse_args().write
    report = Report()
    begun = time.monotonic()
    with Helm() as helm:
        check(report, Workspace(helm), rewrite=rewrite)
    seconds = time.monotonic() - begun
    print(
        f"{report.passed} checks passed, {report.failed} failed; {report.objects} objects rendered "
        f"from {len(CHARTS)} charts and {len(PROFILES)} sets of values, in {seconds:.1f} s"
    )
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
