"""`python -m tests.fuzz NAME --seconds 60`: fuzz one target, guided by coverage, with atheris.

atheris is no part of `.venv`: `make fuzz` installs it, by hash, into `.mdf/fuzz/site` (Linux on
x86-64). What is found lies in `.mdf/fuzz/<name>/`; give its file to `--again` to see it once more.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path
from random import Random
from typing import Any

import structlog

from tests.fuzz.mutation import mutated
from tests.fuzz.target import load, names

_HERE = Path(".mdf/fuzz")
# Of an input, in bytes. Every input has this time, and all together this memory.
_MOST = 8192
_LIMITS = ("-timeout=20", "-rss_limit_mb=1500", f"-max_len={_MOST}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=names())
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the search")
    parser.add_argument("--again", type=Path, help="a file that was found: only this")
    given = parser.parse_args()
    if given.again is not None:
        load(given.name).check(given.again.read_bytes())
        sys.stdout.write("nothing is wrong with it\n")
        return 0
    # What is refused is told by the million.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("atheris is not here: `make fuzz` installs it where it can be\n")
        return 2
    # Only what is imported in here is seen by the search.
    with atheris.instrument_imports(include=["services", "tools"], enable_loader_override=False):
        target = load(given.name)
    folder = _HERE / given.name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def by_value_too(data: bytes, most: int, seed: int) -> bytes:
        if seed % 3 == 0:
            return bytes(atheris.Mutate(data, most))
        return mutated(data, target.seeds, Random(seed), most)

    arguments = (
        *(f"-max_total_time={given.seconds}", f"-seed={given.seed}", "-print_final_stats=1"),
        *(f"-artifact_prefix={folder}/", *_LIMITS, str(corpus)),
    )
    atheris.Setup([sys.argv[0], *arguments], target.check, custom_mutator=by_value_too)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
