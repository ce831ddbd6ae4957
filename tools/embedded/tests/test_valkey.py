from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import redis.asyncio

from tools.embedded import ValkeyServer

# Every sync takes half a second.
_SLOW_DISK = """
#include <unistd.h>
int fsync(int fd) { (void)fd; return usleep(500000); }
int fdatasync(int fd) { (void)fd; return usleep(500000); }
"""


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a slow disk is made by a C compiler")
    library, source = tmp_path / "slow.so", tmp_path / "slow.c"
    source.write_text(_SLOW_DISK)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.mark.usefixtures("slow_disk")
async def test_what_was_acknowledged_is_in_the_file_however_slow_the_disk_is() -> None:
    async with ValkeyServer() as server, redis.asyncio.Redis.from_url(server.url) as client:

        def written() -> bytes:
            files = (server.data_dir / "appendonlydir").glob("*.incr.aof")
            return b"".join(file.read_bytes() for file in files)

        begun, _ = await client.time()
        number = now = 0
        # A server that syncs does so each second.
        while now < begun + 3:
            number += 1
            await client.set(f"key-{number}", "1")
            assert f"key-{number}\r\n".encode() in written()
            now, _ = await client.time()
