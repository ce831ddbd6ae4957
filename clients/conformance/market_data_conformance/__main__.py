"""`python -m market_data_conformance <client command>`: does this client keep the rule?"""

from __future__ import annotations

import argparse
import asyncio
import sys

from market_data_conformance.play import play
from market_data_conformance.script import transcripts


async def check(command: str, only: str) -> int:
    """Play every transcript; how many failed."""
    failures = 0
    cases = [case for case in transcripts() if only in case.name]
    for case in cases:
        why = await play(case, command)
        failures += why is not None
        print(f"{'FAIL' if why else 'pass'}  {case.name}: {case.about}")
        if why:
            print(f"    {why}")
    print(f"{len(cases) - failures} of {len(cases)} passed")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="market_data_conformance", description=__doc__)
    parser.add_argument("client", help="command that starts the client; see README.md")
    parser.add_argument("--only", default="", help="part of the names of the cases to play")
    options = parser.parse_args()
    return 1 if asyncio.run(check(options.client, options.only)) else 0


if __name__ == "__main__":
    sys.exit(main())
