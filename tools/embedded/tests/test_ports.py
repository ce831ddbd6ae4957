from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tools.embedded import free_port
from tools.embedded.ports import FIRST, LAST, PortWalk

HOST = "127.0.0.1"


def test_no_outgoing_connection_can_sit_on_a_chosen_port() -> None:
    outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not outgoing.exists():
        pytest.skip("only Linux tells which ports its outgoing connections take")
    begin = int(outgoing.read_text().split()[0])
    ports = [free_port() for _ in range(50)]
    assert max(ports) < begin
    assert begin > LAST


def test_a_port_comes_again_only_when_all_others_were_given() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500
    walk = PortWalk(LAST)
    first = walk.free(HOST)
    assert first == LAST
    assert FIRST <= walk.free(HOST) < LAST


def test_a_port_on_which_somebody_listens_is_not_given() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert PortWalk(port).free(HOST) != port
