from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import SecretStr

from services.common.command_line import settings_of_service
from services.common.observability.health import package_version
from services.common.settings import CommonSettings

_ROOT = Path(__file__).parents[3]


class Settings(CommonSettings):
    api_secret: SecretStr = SecretStr("open sesame")
    """What opens the door."""
    flavour: Literal["sweet", "sour"] = "sweet"
    """How it tastes."""


def given(*arguments: str) -> Settings:
    return settings_of_service("kitchen", "Cook what was ordered.", Settings, arguments)


def test_without_arguments_the_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAVOUR", "sour")
    assert given().flavour == "sour"


def test_help_names_every_setting_with_default_and_meaning_but_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAVOUR", "bitter")  # Help is wanted most where the settings are bad.
    with pytest.raises(SystemExit) as ended:
        given("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Cook what was ordered." in shown
    assert "FLAVOUR (sweet)\n      How it tastes." in shown
    assert "API_SECRET (***)" in shown
    assert "open sesame" not in shown
    assert all(f"  {name.upper()} (" in shown for name in Settings.model_fields)
    assert max(map(len, shown.splitlines())) <= 100


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        given("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == package_version()


def test_an_argument_that_is_not_known_is_refused_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        given("--flavour=sour")
    assert ended.value.code == 2
    assert "--flavour=sour" in capsys.readouterr().err


def test_a_check_says_whether_the_service_would_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as good:
        given("--check")
    assert good.value.code == 0
    assert "settings: good" in capsys.readouterr().err
    monkeypatch.setenv("FLAVOUR", "bitter")
    with pytest.raises(SystemExit) as bad:
        given("--check")
    assert bad.value.code == 2
    assert "settings: FLAVOUR='bitter': expected 'sweet' or 'sour'" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["gateway", "ingestor", "normalizer", "snapshotter"])
def test_every_service_answers_help_instead_of_serving(service: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", f"services.{service}", "--help"],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout.startswith(f"usage: python -m services.{service}")
    assert "  BROKER_KIND (nats)" in told.stdout
