"""The run's order and its verdict, with programs that only record; a cluster proves the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tools.dev.e2e import programs, scenario
from tools.dev.e2e.__main__ import main
from tools.dev.e2e.scenario import RESTARTS, NoResult, problems, result_of
from tools.dev.e2e.tests.stand_in import stand_in
from tools.loadtest.counts import LoadCounts

CLEAN = {
    "clients": 2,
    "clients_without_ticks": 0,
    "missed": 0,
    "unexplained_breaks": 0,
    "drains": 2,
    "resumed": 3,
    "ok": True,
}
ACTIVE, DONE, FAILED = (
    json.dumps({"status": status}) for status in ({"active": 1}, {"succeeded": 1}, {"failed": 1})
)
Answers = list[tuple[str, list[str]]]


def answers(load: dict[str, Any] | str = CLEAN, job: tuple[str, ...] = (ACTIVE, DONE)) -> Answers:
    """What the programs say in a run that ends with this result."""
    lines = load if isinstance(load, str) else f"{json.dumps(load)}"
    return [
        ("logs job/load --tail=1", ["", "    3 s  1/2 connected", "    4 s  2/2 connected"]),
        ("logs job/load", [f"    9 s  2/2 connected\n{lines}"]),
        ("get job/load", [*job]),
        *(
            (f"get pods .*name={name} ", ["pod/old-1\npod/old-2", "pod/new\npod/old-2", "pod/new"])
            for name in RESTARTS
        ),
        ("get deployments,statefulsets", ["deployment.apps/d"]),
    ]


class Machine:
    """A machine that has the programs; `commands` are those that were run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("docker", "kind", "kubectl", "helm"):
            stand_in(folder, name)

    def answers(self, table: Answers) -> None:
        (self.folder / "answers.json").write_text(json.dumps(table))

    @property
    def commands(self) -> list[str]:
        return (self.folder / "commands.txt").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("CLIENTS", "2")
    monkeypatch.delenv("KEEP", raising=False)
    monkeypatch.setattr(programs, "helm_binary", lambda: str(folder / "helm"))
    monkeypatch.setattr(scenario, "_POLL_S", 0)
    monkeypatch.chdir(tmp_path)
    return Machine(folder)


def test_a_run_without_loss_passes_and_leaves_no_cluster(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.answers(answers())
    assert main() == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is True
    assert result["restarted"].keys() == {"gateway", "normalizer", "snapshotter", "ingestor"}
    assert machine.commands[-1] == "kind delete cluster --name market-data-e2e"
    steps = [
        *("docker build", "kind create", "kind load", "namespace.yaml", "stand-ins.yaml"),
        *("helm upgrade", "helm test", "kubectl --namespace market-data apply --filename -"),
        *("rollout restart", "rollout status deployment.apps/d", "get job/load"),
    ]
    first = [next(n for n, line in enumerate(machine.commands) if s in line) for s in steps]
    assert first == sorted(first)
    # Who they were, while one of them still drained, and when both were gone.
    looks = [line for line in machine.commands if "get pods --selector" in line]
    assert len(looks) == 3 * len(RESTARTS)


def test_nothing_is_restarted_before_every_client_is_connected(machine: Machine) -> None:
    machine.answers(answers())
    main()
    looks = [n for n, line in enumerate(machine.commands) if "logs job/load --tail=1" in line]
    restart = next(n for n, line in enumerate(machine.commands) if "rollout restart" in line)
    assert len(looks) == 3
    assert max(looks) < restart


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (answers({**CLEAN, "missed": 1}, (ACTIVE, FAILED)), "1 ticks were missed"),
        (answers(job=(DONE,)), "the load ended before the restarts did"),
        (answers("no result"), "printed no result"),
        ([("helm upgrade", ["!timed out"]), *answers()], "timed out"),
    ],
    ids=["a miss", "an early end", "no result", "a failed install"],
)
def test_a_run_that_proves_nothing_fails_says_why_and_keeps_what_was_said(
    table: Answers, words: str, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.answers(table)
    assert main() == 1
    told = capsys.readouterr()
    assert words in told.out + told.err
    assert Path(".mdf/e2e/logs/gateway.txt").exists()
    assert machine.commands[-1] == "kind delete cluster --name market-data-e2e"


def test_a_cluster_can_be_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answers(answers())
    monkeypatch.setenv("KEEP", "1")
    assert main() == 0
    assert not any("delete" in line and "kind" in line for line in machine.commands)


def test_a_machine_without_the_programs_is_told_which_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main() == 2
    told = capsys.readouterr().err
    for name in ("docker", "kind", "kubectl"):
        assert f"{name} was not found on PATH; see https://" in told


def test_docker_without_an_engine_is_told_apart(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.answers([("docker info", ["!Cannot connect to the Docker daemon"])])
    assert main() == 2
    assert "no engine to talk to: Cannot connect" in capsys.readouterr().err
    assert machine.commands == ["docker info --format {{.ServerVersion}}"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missed": 3}, "3 ticks were missed"),
        ({"unexplained_breaks": 1}, "1 chains broke"),
        ({"clients_without_ticks": 2}, "2 clients never got a tick"),
        ({"drains": 1}, "only 1 drains announced to 2 clients"),
        ({"resumed": 1}, "2 drains, and only 1 resumptions"),
    ],
)
def test_each_kind_of_loss_is_named(change: dict[str, int], words: str) -> None:
    assert problems(CLEAN, succeeded=True, outlived=True) == []
    (found,) = problems({**CLEAN, **change}, succeeded=True, outlived=True)
    assert words in found


def test_the_verdict_reads_what_the_load_test_prints() -> None:
    result = LoadCounts(clients=3, idle=2).result(1.0)
    assert CLEAN.keys() <= result.keys()
    found = problems(result, succeeded=True, outlived=True)
    assert found == [
        "2 clients never got a tick",
        "only 0 drains announced to 3 clients",
    ]


def test_a_load_test_that_fails_for_a_reason_of_its_own_is_not_passed() -> None:
    assert problems(CLEAN, succeeded=False, outlived=True)


def test_the_result_is_the_last_json_line() -> None:
    assert result_of('1 s\n{"a": 1}\n{"a": 2}\nbye') == {"a": 2}
    for output in ("", "{not json"):
        with pytest.raises(NoResult):
            result_of(output)
