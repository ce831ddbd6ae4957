"""One server of each kind serves all cases: what one client does is nothing to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.gateway.tests.conformance.servers import OTHER, OURS, served


@pytest.fixture(params=[*OURS, OTHER], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def port(kind: str) -> AsyncIterator[int]:
    async with served(kind) as port:
        yield port
