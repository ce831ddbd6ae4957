"""`python -m tools.dev.e2e`: status 0 if everything was restarted under load and nothing was lost.

The steps go to standard error, one JSON line to standard output. KEEP=1 leaves the cluster.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tools.dev.charts.workspace import HelmFailed
from tools.dev.e2e.programs import Missing, ProgramFailed, Programs, to_stderr
from tools.dev.e2e.scenario import CLUSTER, Load, NoResult, Scenario, TooLong

FOLDER = Path(".mdf") / "e2e"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    load = Load(
        clients=int(os.environ.get("CLIENTS") or Load.clients),
        seconds=int(os.environ.get("DURATION") or Load.seconds),
    )
    try:
        programs = Programs((FOLDER / "kubeconfig").absolute(), echo=to_stderr)
    except Missing as lacking:
        to_stderr(f"make e2e-kind cannot run here:\n{lacking}")
        return 2
    scenario = Scenario(programs, load, say=lambda what: to_stderr(f"== {what}"))
    passed = False
    try:
        result = scenario.run()
        passed = not result["problems"]
        print(json.dumps({"ok": passed, **result}))
    except (HelmFailed, NoResult, ProgramFailed, TooLong) as error:
        to_stderr(f"FAIL  {error}")
    finally:
        if not passed:
            scenario.collect(FOLDER / "logs")
            to_stderr(f"what the cluster said is in {FOLDER / 'logs'}")
        if os.environ.get("KEEP"):
            to_stderr(f"{CLUSTER} is kept; KUBECONFIG={programs.kubeconfig}")
        else:
            scenario.delete_cluster()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
