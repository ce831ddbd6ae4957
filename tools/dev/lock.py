"""Pin the dependencies: `requirements/*.txt` from pyproject.toml and requirements/dev.in.

Pins that are there stay as they are; `--upgrade` takes the newest of everything.

`dev.txt` is solved first and holds everything; each service's file is the subset that its extra
needs, at the same versions, so an image never runs what the tests did not. Hashes, no addresses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
EXTRAS = ("ingestor", "normalizer", "snapshotter", "gateway", "tools")


def compile_file(output: Path, *arguments: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version", "3.12", "--generate-hashes", "--allow-unsafe"),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-header"),
            *arguments,
            *("--output-file", str(output)),
        ],
        cwd=ROOT,
        check=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Pin the dependencies (requirements/*.txt).")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    fresh = ["--upgrade"] if parser.parse_args().upgrade else []
    dev = REQUIREMENTS / "dev.txt"
    compile_file(dev, *fresh, "--all-extras", "pyproject.toml", "requirements/dev.in")
    compile_file(
        REQUIREMENTS / "build.txt",
        *("--constraints", str(dev.relative_to(ROOT)), "requirements/build.in"),
    )
    for extra in EXTRAS:
        compile_file(
            REQUIREMENTS / f"{extra}.txt",
            *("--extra", extra, "--constraints", str(dev.relative_to(ROOT)), "pyproject.toml"),
        )


if __name__ == "__main__":
    main()
