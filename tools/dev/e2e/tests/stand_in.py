"""Stands where docker, kind, kubectl and helm would: records, and answers from a table.

Copied under a program's name (`stand_in`), it finds `answers.json` beside itself, a list of
[pattern, answers]: the n-th command that a pattern matches gets the n-th answer, later ones the
last. An answer that begins with "!" is a failure. `commands.txt` gets what was asked.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def stand_in(folder: Path, name: str) -> None:
    program = folder / name
    program.write_text(f"#!{sys.executable} -SE\n{Path(__file__).read_text()}")
    program.chmod(0o755)


def main() -> None:
    folder = Path(sys.argv[0]).parent
    command = " ".join((Path(sys.argv[0]).name, *sys.argv[1:]))
    record = folder / "commands.txt"
    earlier = record.read_text().splitlines() if record.exists() else []
    with record.open("a") as file:
        file.write(command + "\n")
    for pattern, answers in json.loads((folder / "answers.json").read_text()):
        if re.search(pattern, command):
            nth = sum(bool(re.search(pattern, line)) for line in earlier)
            answer = answers[min(nth, len(answers) - 1)]
            if answer.startswith("!"):
                sys.exit(answer[1:])
            print(answer)
            return


if __name__ == "__main__":
    main()
