"""A real server that lost the newest part of what it had acknowledged.

As a late replica that took over has, or a machine that stopped before its disk had everything.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tools.embedded import NatsServer, ValkeyServer

Server = NatsServer | ValkeyServer


def settings_for(server: Server) -> dict[str, Any]:
    """What a service is told to use it."""
    if isinstance(server, ValkeyServer):
        return {"broker_kind": "redis", "redis_url": server.url}
    return {"broker_kind": "nats", "nats_urls": (server.url,)}


def keep(server: Server, folder: Path) -> Path:
    """Keep in `folder` what it holds now; answers where. It has to be idle."""
    return Path(shutil.copytree(server.data_dir, folder / server.data_dir.name))


async def go_back(server: Server, kept: Path) -> None:
    """Kill it, and start it again with what was kept."""
    await server.kill()
    shutil.rmtree(server.data_dir)
    shutil.move(kept, server.data_dir)
    await server.start()
