"""The files that the code host reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.dev.images.image import IMAGES

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)


def jobs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["jobs"]
    return found


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(file).values():
        yield from job["steps"]


@every_workflow
def test_a_workflow_has_no_right_that_a_job_does_not_ask_for(file: Path) -> None:
    assert yaml.safe_load(file.read_text())["permissions"] == {}
    for name, job in jobs(file).items():
        assert "permissions" in job, name
        assert job["timeout-minutes"] <= 60, name


def test_each_pin_says_its_version_and_is_the_same_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for file in WORKFLOWS:
        for line in file.read_text().splitlines():
            if "uses:" in line:
                found = re.search(r"uses: ([\w./-]+)@(\w{40} # v\d+\.\d+\.\d+)$", line)
                assert found is not None, line
                pins.setdefault(found[1], set()).add(found[2])
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@every_workflow
def test_every_command_of_ours_in_a_workflow_exists(file: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for step in steps(file):
        for target in re.findall(r"\bmake ([a-z0-9-]+)", step.get("run", "")):
            assert re.search(rf"^{target}\b.*:", makefile, re.M), target
        for module in re.findall(r"python -m ([\w.]+)", step.get("run", "")):
            path = ROOT / module.replace(".", "/")
            assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), module


@every_workflow
def test_the_shell_in_a_workflow_is_sound_and_takes_nothing_from_an_event(file: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    if not program.exists():
        pytest.skip("there is no shellcheck for this machine")
    for step in steps(file):
        if "run" in step:
            assert "${{" not in step["run"]
            done = subprocess.run(
                [program, "--shell=bash", "-"],
                input=step["run"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout


def test_only_the_jobs_of_a_release_that_push_may_prove_who_they_are() -> None:
    for file in WORKFLOWS:
        for name, job in jobs(file).items():
            pushes = file.name == "release.yml" and name in ("images", "chart")
            expected = {"contents": "read", "id-token": "write"} if pushes else {"contents": "read"}
            assert job["permissions"] == expected, name
            assert (job.get("environment") == "release") == pushes, name


def test_a_release_builds_every_image_for_both_architectures_and_checks_first() -> None:
    release = jobs(ROOT / ".github/workflows/release.yml")
    assert set(release["images"]["strategy"]["matrix"]["image"]) == {image.name for image in IMAGES}
    (build,) = (s["with"] for s in release["images"]["steps"] if s.get("id") == "build")
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["sbom"], build["provenance"], build["push"]) == (True, "mode=max", True)
    assert release["images"]["needs"] == "check"
    assert set(release["chart"]["needs"]) == {"check", "images"}


def test_the_release_role_is_for_that_environment_and_may_only_push_ours() -> None:
    folder = ROOT / "deploy/release"
    policy = json.loads((folder / "policy.json").read_text())["Statement"]
    assert {action.partition(":")[0] for s in policy for action in listed(s["Action"])} == {"ecr"}
    everywhere = [s["Action"] for s in policy if s["Resource"] == "*"]
    assert everywhere == ["ecr:GetAuthorizationToken"]
    (trust,) = json.loads((folder / "trust.json").read_text())["Statement"]
    subject = trust["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject == "repo:${GITHUB_REPOSITORY}:environment:release"


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_every_profile_of_the_stack_is_started_by_one_job() -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    asked_for = {profile for service in stack.values() for profile in service.get("profiles", [])}
    matrix = jobs(ROOT / ".github/workflows/ci.yml")["compose"]["strategy"]["matrix"]["include"]
    started = {leg["broker"] for leg in matrix} | (
        {"observability"} if any(leg["traces"] for leg in matrix) else set()
    )
    assert asked_for == started - {"nats"}


def test_the_forms_and_the_updater_are_readable() -> None:
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    for update in updates:
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.lstrip("/")).is_dir()
