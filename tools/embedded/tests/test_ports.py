from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools.embedded import free_port
from tools.embedded.ports import FIRST, LAST, PortWalk, Reservations

HOST = "127.0.0.1"
ANOTHER = """
import sys
from pathlib import Path
from tools.embedded.ports import PortWalk, Reservations
print(PortWalk(int(sys.argv[2]), Reservations(Path(sys.argv[1]))).free("127.0.0.1"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def reservations(tmp_path: Path) -> Reservations:
    return Reservations(tmp_path / "ports", kept=3)


def test_no_outgoing_connection_can_sit_on_a_chosen_port() -> None:
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not outgoing.exists():
        pytest.skip("only Linux tells which ports its outgoing connections take")
    begin = int(outgoing.read_text().split()[0])
    ports = [free_port() for _ in range(50)]
    assert max(ports) < begin
    assert begin > LAST


def test_a_port_comes_again_only_when_all_others_were_given(reservations: Reservations) -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500
    walk = PortWalk(LAST, reservations)
    first = walk.free(HOST)
    assert first == LAST
    assert FIRST <= walk.free(HOST) < LAST


def test_a_port_on_which_somebody_listens_is_not_given(reservations: Reservations) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert PortWalk(port, reservations).free(HOST) != port


def test_a_port_that_another_process_was_given_and_does_not_listen_on_yet_is_not_given(
    tmp_path: Path, reservations: Reservations
) -> None:
    start = free_port()
    command = [sys.executable, "-c", ANOTHER, str(tmp_path / "ports"), str(start)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        mine = PortWalk(start, reservations).free(HOST)
        assert mine > theirs >= start
        other.kill()
        other.wait()
        assert PortWalk(start, reservations).free(HOST) == theirs


def test_only_the_newest_ports_are_kept_from_others(
    tmp_path: Path, reservations: Reservations
) -> None:
    start = free_port()
    mine = [PortWalk(start + at, reservations).free(HOST) for at in range(0, 40, 10)]
    command = [sys.executable, "-c", ANOTHER, str(tmp_path / "ports"), str(mine[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == mine[0]
        other.kill()
