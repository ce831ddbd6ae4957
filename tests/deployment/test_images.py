"""The Dockerfiles, and whether what they install is enough for what they run."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
DOCKERFILES = {
    **{name: ROOT / "services" / name / "Dockerfile" for name in SERVICES},
    "tools": ROOT / "tools" / "Dockerfile",
}
every_image = pytest.mark.parametrize("image", DOCKERFILES)

# Imports every module below argv[1], without the packages in argv[2], of our own only argv[3].
IMPORT_ALL = """
import importlib, pkgutil, sys
roots, others, own = sys.argv[1].split(), set(sys.argv[2].split()), sys.argv[3].split()

class Absent:
    def find_spec(self, name, path=None, target=None):
        inside = any(name == o or name.startswith(o + ".") or o.startswith(name + ".") for o in own)
        ours = name.partition(".")[0] in ("services", "tools", "tests")
        left_out = "testing" in name.split(".") and ours
        if name.partition(".")[0] in others or left_out or (ours and not inside):
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Absent())
# Not in the images (.dockerignore), and `__main__`, which would run.
SKIP = (
    *("tests", "testing", "__main__"),
    *("bench", "charts", "e2e", "lint", "lock", "observability", "release"),
)
packages = {root: importlib.import_module(root).__path__ for root in roots}
count = 0
for module in (m for r, path in packages.items() for m in pkgutil.walk_packages(path, r + ".")):
    if not any(part in SKIP for part in module.name.split(".")):
        importlib.import_module(module.name)
        count += 1
print(count)
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def absent_modules(image: str) -> set[str]:
    """Top-level modules that are installed here and that the image does not get."""
    pins = (ROOT / "requirements" / f"{image}.txt").read_text()
    held = {canonical(name) for name in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==", pins, re.M)}
    return {
        module
        for module, distributions in packages_distributions().items()
        if not {canonical(name) for name in distributions} & {*held, "market-data-fanout"}
    }


@every_image
def test_an_image_has_all_that_its_modules_import(image: str) -> None:
    # The broker's drivers are imported only once the settings name one.
    root = "tools" if image == "tools" else f"services.{image} services.common.stream"
    own = "tools services" if image == "tools" else f"services.common services.{image}"
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, root, " ".join(absent_modules(image)), own],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 5


@pytest.mark.parametrize(
    ("absent", "own"),
    [("msgspec", "services.common services.normalizer"), ("", "services.normalizer")],
    ids=["a package", "a part of our own"],
)
def test_the_import_check_sees_what_is_missing(absent: str, own: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, "services.normalizer", absent, own],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is not in the image" in done.stderr


@every_image
def test_an_image_is_built_from_hashed_pins_and_holds_only_its_own_service(image: str) -> None:
    text = DOCKERFILES[image].read_text()
    assert f"--require-hashes --only-binary :all: \\\n      -r requirements/{image}.txt" in text
    copied = set(re.findall(r"^COPY (services/\w+|tools|services) ", text, re.M))
    if image == "tools":
        assert copied == {"services", "tools"}
    else:
        assert copied == {"services/common", f"services/{image}"}


@every_image
def test_an_image_runs_as_nobody_in_particular_and_gets_its_signals(image: str) -> None:
    final = DOCKERFILES[image].read_text().rpartition("\nFROM ")[2]
    module = "tools.simulator" if image == "tools" else f"services.{image}"
    assert "\nUSER 10001:10001\n" in final
    assert f'\nENTRYPOINT ["python", "-m", "{module}"]\n' in final
    assert re.search(r'^HEALTHCHECK .*\\\n  CMD \["python", "-c", ', final, re.M)
    assert f'org.opencontainers.image.title="market-data-fanout/{image}"' in final


@every_image
def test_a_dockerfile_keeps_to_what_every_builder_understands(image: str) -> None:
    text = DOCKERFILES[image].read_text()
    assert not text.startswith("# syntax")
    assert "<<" not in text
    assert "--link" not in text
    assert re.findall(r"^ARG PYTHON=(.*)$", text, re.M) == ["python:3.12-slim"]
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${PYTHON}"}


def test_nothing_reaches_a_build_that_is_not_named() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {"**/tests", "**/testing", "tools/charts"} <= set(rules)
