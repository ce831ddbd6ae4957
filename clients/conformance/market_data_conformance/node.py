"""Where Node.js is, for those tests that need it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

WITHOUT_NODE = "Node.js of at least 20 was not found"


def find_node() -> tuple[str, ...] | None:
    """The command that runs Node with a global WebSocket: the machine's own, else Playwright's."""
    for candidate in filter(None, (shutil.which("node"), _playwrights_node())):
        answer = subprocess.run(
            [candidate, "--version"], capture_output=True, text=True, check=False
        )
        major = answer.stdout.strip().removeprefix("v").split(".")[0]
        if major.isdigit() and int(major) >= 20:
            # Before 22 the global WebSocket stands behind a flag.
            return (candidate, "--experimental-websocket") if int(major) < 22 else (candidate,)
    return None


def _playwrights_node() -> str | None:
    try:
        import playwright
    except ImportError:
        return None
    node = Path(playwright.__file__).parent / "driver" / "node"
    return str(node) if node.exists() else None


if __name__ == "__main__":
    print(" ".join(find_node() or ("node",)))
