from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pytest
from pydantic import Field, SecretStr, field_validator

from services.common.errors import SettingsError
from services.common.settings import (
    AwsSettings,
    CommaList,
    CommonSettings,
    child_environment,
    load,
    load_or_exit,
    settings_table,
    split_commas,
)


class ServiceSettings(CommonSettings):
    products: CommaList = Field(description="Products, comma-separated.")
    api_secret: SecretStr | None = Field(None, min_length=20, description="The secret.")
    limit: Annotated[int, Field(gt=0)] = Field(7, description="How many.")
    keys: tuple[SecretStr, ...] = Field((), description="Keys.")

    _split = field_validator("products", mode="before")(split_commas)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (ServiceSettings, AwsSettings):
        for name in model.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


def given_environment(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def problems(monkeypatch: pytest.MonkeyPatch, **values: str) -> list[str]:
    given_environment(monkeypatch, {"PRODUCTS": "BTC-USD", **values})
    with pytest.raises(SettingsError) as refusal:
        load(ServiceSettings)
    return refusal.value.problems


def test_nats_takes_a_user_with_a_password_or_credentials_and_no_mixture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        given_environment(patch, {"NATS_USER": "md", "NATS_PASSWORD": "a password"})
        settings = load(CommonSettings)
        assert settings.nats_password is not None
        assert settings.nats_password.get_secret_value() == "a password"
        assert "a password" not in repr(settings)
    with monkeypatch.context() as patch:
        assert problems(patch, NATS_USER="md") == [
            "NATS_USER and NATS_PASSWORD: expected both or neither"
        ]
    assert problems(monkeypatch, NATS_USER="md", NATS_PASSWORD="x", NATS_CREDS_FILE="/creds") == [
        "NATS_USER and NATS_CREDS_FILE: expected one of them"
    ]


def test_defaults_are_those_of_the_contract() -> None:
    settings = load(CommonSettings)
    assert (settings.log_level, settings.broker_kind, settings.shard_count) == ("INFO", "nats", 8)
    assert (settings.http_port, settings.admin_port) == (8080, None)
    assert settings.nats_urls == ("nats://127.0.0.1:4222",)
    assert (settings.js_stream_name, settings.js_retention_minutes) == ("MARKET", 60)
    assert settings.js_replicas == 1
    assert (settings.stream_name, settings.environment) == ("market", "development")
    assert settings.otel_exporter_otlp_endpoint is None


def test_a_log_is_bounded_by_default_and_holds_a_few_of_the_largest_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(CommonSettings)
    assert min(settings.js_raw_max_bytes, settings.js_tick_max_bytes) == 4 * 1024**3
    assert settings.js_invalid_max_bytes == 64 * 1024**2
    least = 16 * 1024**2
    assert problems(monkeypatch, JS_RAW_MAX_BYTES="1000") == [
        f"JS_RAW_MAX_BYTES=1000: expected 0, or at least {least}"
    ]
    monkeypatch.delenv("JS_RAW_MAX_BYTES")
    each = " for each of the 64 logs (SHARD_COUNT)"
    assert problems(monkeypatch, SHARD_COUNT="64", JS_TICK_MAX_BYTES=str(2 * least)) == [
        f"JS_TICK_MAX_BYTES={2 * least}: expected 0, or at least {least}{each}"
    ]
    given_environment(monkeypatch, {"JS_TICK_MAX_BYTES": "0"})
    assert load(CommonSettings).js_tick_max_bytes == 0


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    given_environment(
        monkeypatch, {"PRODUCTS": " BTC-USD, ETH-USD,,", "NATS_URLS": "nats://a:1,nats://b:2"}
    )
    settings = load(ServiceSettings)
    assert settings.products == ("BTC-USD", "ETH-USD")
    assert settings.nats_urls == ("nats://a:1", "nats://b:2")


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given_environment(monkeypatch, {"HTTP_PORT": "", "NATS_CREDS_FILE": ""})
    settings = load(CommonSettings)
    assert (settings.http_port, settings.nats_creds_file) == (8080, None)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("HTTP_PORT", "x", "HTTP_PORT='x': expected a valid integer"),
        ("HTTP_PORT", "70000", "HTTP_PORT='70000': expected less than or equal to 65535"),
        ("BROKER_KIND", "kafka", "BROKER_KIND='kafka': expected 'nats', 'redis' or 'memory'"),
        ("SHARD_COUNT", "0", "SHARD_COUNT='0': expected greater than or equal to 1"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL='LOUD': expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("JS_REPLICAS", "2", "JS_REPLICAS=2: expected 1, 3 or 5"),
        ("JS_REPLICAS", "two", "JS_REPLICAS='two': expected 1, 3 or 5"),
        ("JS_RETENTION_MINUTES", "-1", "JS_RETENTION_MINUTES='-1': expected greater than 0"),
        ("CONSUMER_GROUP", "a.b", "CONSUMER_GROUP='a.b': expected"),
    ],
)
def test_a_problem_names_the_variable_the_value_and_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    (problem,) = problems(monkeypatch, **{name: value})
    assert problem.startswith(line)


def test_several_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, HTTP_PORT="x", SHARD_COUNT="many", LIMIT="0")
    assert [line.partition("=")[0] for line in found] == ["SHARD_COUNT", "HTTP_PORT", "LIMIT"]


def test_a_missing_setting_says_what_it_is_for() -> None:
    with pytest.raises(SettingsError) as refusal:
        load(ServiceSettings)
    assert refusal.value.problems == ["PRODUCTS: missing; expected Products, comma-separated."]


def test_a_secret_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_environment(monkeypatch, {"PRODUCTS": "BTC-USD", "API_SECRET": "hunter2"})
    with pytest.raises(SettingsError) as refusal:
        load(ServiceSettings)
    (problem,) = refusal.value.problems
    assert problem.startswith("API_SECRET=***: expected ")
    shown = [str(refusal.value), repr(refusal.value.__cause__), str(refusal.value.__cause__)]
    assert not any("hunter2" in text for text in shown)
    with pytest.raises(SystemExit):
        load_or_exit(ServiceSettings)
    assert "hunter2" not in capsys.readouterr().err


def test_a_secret_in_a_settings_own_text_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    given_environment(
        monkeypatch, {"PRODUCTS": "BTC-USD", "API_SECRET": "long-enough-to-be-a-secret"}
    )
    settings = load(ServiceSettings)
    assert "long-enough" not in repr(settings)
    assert settings.api_secret is not None
    assert settings.api_secret.get_secret_value() == "long-enough-to-be-a-secret"


def test_bad_settings_end_the_process_with_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_environment(monkeypatch, {"HTTP_PORT": "x", "SHARD_COUNT": "y"})
    with pytest.raises(SystemExit) as ended:
        load_or_exit(CommonSettings)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("settings: ") for line in lines)


def test_a_rule_over_several_settings_words_its_own_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (problem,) = problems(monkeypatch, ENVIRONMENT="production", BROKER_KIND="memory")
    assert problem.startswith("BROKER_KIND='memory': expected nats or redis in production")


def test_structured_settings_that_are_no_json_are_a_problem_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (problem,) = problems(monkeypatch, KEYS="one,two")
    assert problem.startswith("KEYS=***: expected")


def test_settings_cannot_be_changed() -> None:
    settings = load(CommonSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.http_port = 1  # type: ignore[misc]  # the assignment is what is tested


def test_the_table_names_every_variable_with_default_and_meaning() -> None:
    table = settings_table(ServiceSettings)
    assert "| `HTTP_PORT` | `8080` | Port of the HTTP listener; 0 picks a free one. |" in table
    assert "| `PRODUCTS` | required | Products, comma-separated. |" in table
    assert "| `API_SECRET` | unset | The secret. |" in table
    assert "| `KEYS` | empty | Keys. |" in table


def test_a_childs_environment_has_the_extras_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    given_environment(monkeypatch, {"STREAM_NAME": "one", "REDIS_URL": "two"})
    child = child_environment({"STREAM_NAME": "three"})
    assert (child["STREAM_NAME"], child["REDIS_URL"]) == ("three", "two")


def test_a_value_that_is_no_text_is_a_problem_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert problems(monkeypatch, PRODUCTS="BTC-\udcff", API_SECRET="a secret \udcff") == [
        "PRODUCTS: expected text in UTF-8",
        "API_SECRET: expected text in UTF-8",
    ]
