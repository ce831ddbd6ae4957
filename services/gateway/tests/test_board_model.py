"""What the web board knows of a product, in Node."""

from __future__ import annotations

from pathlib import Path

import pytest
from market_data_conformance.documents import run_program
from market_data_conformance.node import WITHOUT_NODE, find_node

NODE = find_node()


@pytest.mark.skipif(NODE is None, reason=WITHOUT_NODE)
async def test_prices_are_drawn_when_they_happened_and_gaps_are_seen() -> None:
    assert NODE is not None
    file = Path(__file__).parent / "board" / "model.test.js"
    status, output = await run_program(*NODE, "--test", str(file), environment={})
    assert status == 0, output
