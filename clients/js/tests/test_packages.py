"""The SDK beside what its users have: TypeScript, and React in a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from market_data_conformance.documents import run_program
from market_data_conformance.node import WITHOUT_NODE, find_node, lay_out

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import bench, under_load

ROOT = Path(__file__).resolve().parents[1]
NAME = "market-data-fanout-client"
HERE = Path(__file__).parent / "packages"
NODE = find_node() or ()
pytestmark = pytest.mark.skipif(not NODE, reason=WITHOUT_NODE)


@pytest.fixture
def project(tmp_path: Path, npm_packages: Path) -> Path:
    """A user's project, in which the SDK is installed beside `npm_packages`."""
    del npm_packages
    lay_out(tmp_path, {NAME: ROOT})
    (tmp_path / "package.json").write_text('{"type": "module"}')
    return tmp_path


# As strict as a user may be; declarations are checked too, as `skipLibCheck` is not set.
COMPILER = {
    "strict": True,
    "noUncheckedIndexedAccess": True,
    "exactOptionalPropertyTypes": True,
    "target": "es2022",
    "lib": ["es2022", "dom"],
    "types": [],
    "module": "nodenext",
}
# Everything that each entry of the package really exports.
NAMES = f"""
const entries = {{}};
for (const entry of ["{NAME}", "{NAME}/react"]) entries[entry] = Object.keys(await import(entry));
console.log(JSON.stringify(entries));
"""


async def test_the_declarations_compile_strictly_and_declare_what_is_exported(
    project: Path,
) -> None:
    (project / "names.mjs").write_text(NAMES)
    status, output = await run_program(*NODE, "names.mjs", cwd=project)
    assert status == 0, output
    both_ways = "".join(
        f"import * as all{n} from {json.dumps(entry)};\n"
        f"const names{n}: Record<keyof typeof all{n}, true> = "
        f"{json.dumps(dict.fromkeys(names, True))};\nvoid names{n};\n"
        for n, (entry, names) in enumerate(json.loads(output.splitlines()[-1]).items())
    )
    (project / "names.ts").write_text(both_ways)
    (project / "usage.ts").write_text((HERE / "usage.ts").read_text())
    (project / "tsconfig.json").write_text(json.dumps({"compilerOptions": COMPILER}))
    status, output = await run_program(
        *NODE, "node_modules/typescript/bin/tsc", "--noEmit", cwd=project
    )
    assert status == 0, output


async def test_the_hook_on_react_mounts_resubscribes_and_leaves_nothing_open(project: Path) -> None:
    (project / "hook.test.js").write_text((HERE / "hook.test.js").read_text())
    async with bench(MemoryBroker(), ws_burst=1000) as gateway:
        markets = [gateway.market(product) for product in ("BTC-USD", "ETH-USD", "SOL-USD")]
        book = gateway.market(channel="book")
        await book.publish(book.reset({"bids": [["1", "1"]], "asks": [["500", "1"]]}))
        async with under_load(*markets, book, every_s=0.01):
            status, output = await run_program(
                *(*NODE, "--test", "--test-reporter=tap", "hook.test.js"),
                cwd=project,
                environment={"GATEWAY_URL": f"ws://127.0.0.1:{gateway.port}/ws"},
            )
        assert status == 0, output
        # React complains on standard error, for example of updates that loop.
        assert "Warning" not in output, output
