"""Every command of the operations guide is real, as far as that can be seen without a cluster.

Read are the shell blocks of docs/operations.md and docs/operations/: targets, `mdf` options, files,
names of objects and calls of AWS have to exist, and the helm commands have to render.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from typing import Any

import botocore.session
import click
import pytest
from botocore import xform_name

from services.common.stores.layout import RAW, TICKS
from tests.deployment.guide import COMMANDS, DOCUMENTS, FOLDER, VARIABLES, Command, of
from tools.cli import main as mdf
from tools.dev.charts.workspace import ROOT

# Programs that are not looked into: nothing here knows their options.
OTHERS = {"cosign", "curl", "docker", "eksctl", "envsubst", "git", "nats", "openssl", "sed"}
_OURS = re.compile(r"(?:file://)?((?:charts|deploy|docs|helm|k8s|services|tests|tools)/[\w./-]+)")
_OPTIONS_OF_THE_CLI = {"query", "output", "region", "cli-input-json"}
every = pytest.mark.parametrize


def test_the_guide_has_commands_and_they_are_understood() -> None:
    programs = {command.words[0] for command in COMMANDS}
    assert programs - OTHERS == {"aws", "helm", "kubectl", "make", "mdf", "python"}
    assert len(COMMANDS) > 80
    assert {str(document.parent.name) for document in DOCUMENTS} == {"docs", "operations"}


def test_files_that_commands_name_exist() -> None:
    missing = [
        f"{command}: {found[1]}"
        for command in COMMANDS
        for word in command.words
        if (found := _OURS.fullmatch(word)) and not (ROOT / found[1]).exists()
    ]
    assert missing == []


def test_variables_in_commands_are_set_by_the_guide() -> None:
    text = (FOLDER / "operations.md").read_text()
    exported = set(re.findall(r"(?:export |[\s;])([A-Z][A-Z0-9_]+)=", text))
    used = {
        name
        for command in COMMANDS
        for word in command.words
        for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]*)", word)
    }
    # What only the reader knows.
    assert used - exported <= {"NODE", "ADMIN_API_KEY"}
    assert set(VARIABLES) <= exported


@every("command", of("make"), ids=str)
def test_a_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M)
    wanted = [word for word in command.words[1:] if "=" not in word]
    assert wanted
    assert set(wanted) <= set(targets)


@every("command", of("python"), ids=str)
def test_a_module_exists(command: Command) -> None:
    assert command.words[1] == "-m"
    assert find_spec(command.words[2]) is not None


@every("command", of("mdf"), ids=str)
def test_an_mdf_command_takes_these_options(command: Command) -> None:
    name, *words = command.words[1:]
    tool = mdf.get_command(click.Context(mdf), name)
    assert tool is not None
    if words:
        # Parses them all, and ends at the first that is wrong; nothing is run.
        tool.make_context(name, list(words))


def test_the_jobs_arguments_are_mdf_commands() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    found = re.findall(r"ARGS='(\[.*?\])'", text)
    assert len(found) == 2
    for arguments in found:
        name, *words = json.loads(arguments)
        tool = mdf.get_command(click.Context(mdf), name)
        assert tool is not None
        tool.make_context(name, words)


# ---------------------------------------------------------------------- AWS


@cache
def operations(service: str) -> dict[str, Any]:
    model = botocore.session.get_session().get_service_model({"s3api": "s3"}.get(service, service))
    return {xform_name(name, "-"): model.operation_model(name) for name in model.operation_names}


@every("command", of("aws"), ids=str)
def test_a_call_of_aws_and_its_options_exist(command: Command) -> None:
    service, operation, *words = command.words[1:]
    if (service, operation) == ("ecr", "get-login-password"):
        return
    members = operations(service)[operation].input_shape.members
    known = {xform_name(name, "-") for name in members} | _OPTIONS_OF_THE_CLI
    options = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert options - known == set()


def test_what_expires_is_never_the_index_or_a_checkpoint() -> None:
    lifecycle = json.loads((ROOT / "deploy/s3/lifecycle.json").read_text())
    shape = operations("s3api")["put-bucket-lifecycle-configuration"].input_shape
    assert lifecycle.keys() <= shape.members["LifecycleConfiguration"].members.keys()
    expires = {
        rule["Filter"]["Prefix"]
        for rule in lifecycle["Rules"]
        if rule.get("Expiration", {}).get("Days")
    }
    assert expires == {f"{TICKS}/", f"{RAW}/"}
    assert any("AbortIncompleteMultipartUpload" in rule for rule in lifecycle["Rules"])
