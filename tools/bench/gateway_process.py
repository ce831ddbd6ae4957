"""`python -m services.gateway` as deployed, for benchmarks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from services.common.settings import child_environment
from services.common.testing.waiting import eventually
from tools.embedded.ports import free_port
from tools.embedded.process import die_with_parent

_START_S = 120


@asynccontextmanager
async def gateway_process(
    nats_url: str, port: int, variables: Mapping[str, str]
) -> AsyncIterator[int]:
    """Run one on a nats-server until the block is left; its process id, once it is ready."""
    environment = child_environment(
        {
            "NATS_URLS": nats_url,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            # Nothing answers there; streams then begin with the log.
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            **variables,
        }
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.gateway"),
        env=environment,
        preexec_fn=die_with_parent,
    )
    try:
        await eventually(lambda: _ready(port), "the gateway's readiness", _START_S, every=0.05)
        yield process.pid
    finally:
        process.kill()
        await process.wait()


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
    line = await reader.readline()
    writer.close()
    return b" 200 " in line
