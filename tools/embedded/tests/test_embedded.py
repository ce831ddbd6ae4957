from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from tools.embedded import AwsServer, NatsServer, ServerFailed, ValkeyServer, free_port


@pytest.mark.parametrize("kind", [NatsServer, ValkeyServer, AwsServer])
async def test_a_server_keeps_its_port_when_it_comes_back(
    kind: type[NatsServer | ValkeyServer | AwsServer],
) -> None:
    async with kind() as server:
        port = server.port
        assert server.is_running()
        await server.kill()
        assert not server.is_running()
        await server.start()
        assert server.is_running()
        assert server.port == port
    assert not server.data_dir.exists()


async def test_moto_answers_as_dynamodb() -> None:
    async with AwsServer() as aws, httpx.AsyncClient() as client:
        answer = await client.get(f"{aws.url}/moto-api/data.json")
        assert answer.status_code == 200


async def test_each_api_of_aws_has_answered_before_the_server_is_said_to_be_there() -> None:
    """Its first answer takes seconds on a busy machine, longer than a client waits."""
    async with AwsServer() as aws:
        answered = [line for line in aws.log_tail().splitlines() if '" 200' in line]
        assert [line.split('"')[1] for line in answered] == ["POST / HTTP/1.1", "GET / HTTP/1.1"]


async def test_a_server_that_cannot_start_says_why() -> None:
    port = free_port()
    async with NatsServer(port=port):
        with pytest.raises(ServerFailed, match="address already in use"):
            await NatsServer(port=port).start()


_DEAD_BEFORE_THE_CHILD_ASKED = """
import os
from tools.embedded.process import die_with_me

die = die_with_me()
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        os.sched_yield()
    die()
    print("outlived it")
"""


def test_a_child_whose_parent_died_right_behind_the_fork_dies_too() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _DEAD_BEFORE_THE_CHILD_ASKED],
        capture_output=True,
        text=True,
        check=False,
    )
    # Its output ends when the last process that holds it is gone.
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
