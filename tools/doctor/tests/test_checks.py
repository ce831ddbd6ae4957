"""What the doctor finds, with real servers and without any."""

from __future__ import annotations

import pytest

from services.common.settings import AwsSettings, CommonSettings
from tools.doctor.checks import (
    SETTINGS,
    check_broker,
    check_bucket,
    check_settings,
    check_table,
    check_venue_rest,
    check_venue_ws,
    clock_finding,
)
from tools.embedded import AwsServer, NatsServer, ValkeyServer, free_port


@pytest.mark.parametrize("service", sorted(SETTINGS))
def test_the_defaults_of_every_service_are_well(service: str) -> None:
    finding, settings = check_settings(service)
    assert finding.level == "ok"
    assert settings is not None


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARD_COUNT", "none")
    finding, settings = check_settings("normalizer")
    assert finding.level == "error"
    assert "SHARD_COUNT='none'" in finding.detail
    assert settings is None


async def test_a_running_nats_server_is_well(nats_server: NatsServer) -> None:
    settings = CommonSettings.model_validate({"nats_urls": (nats_server.url,)})
    assert (await check_broker(settings)).level == "ok"


async def test_a_running_valkey_is_well(valkey_server: ValkeyServer) -> None:
    settings = CommonSettings.model_validate(
        {"broker_kind": "redis", "redis_url": valkey_server.url}
    )
    assert (await check_broker(settings)).level == "ok"


async def test_a_table_and_a_bucket_that_do_not_exist_yet_are_no_error(
    aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws_server.environment.items():
        monkeypatch.setenv(name, value)
    settings = AwsSettings()
    assert (await check_table(settings)).level == "warning"
    assert (await check_bucket(settings)).level == "warning"


async def test_a_store_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    settings = AwsSettings.model_validate({"aws_endpoint_url": f"http://127.0.0.1:{free_port()}"})
    finding = await check_bucket(settings)
    assert finding.level == "error"
    assert "AWS_ENDPOINT_URL" in finding.advice


async def test_a_venue_that_does_not_answer_is_an_error() -> None:
    (finding,) = await check_venue_rest(f"http://127.0.0.1:{free_port()}")
    assert finding.level == "error"
    assert (await check_venue_ws(f"ws://127.0.0.1:{free_port()}")).level == "error"


@pytest.mark.parametrize(
    ("theirs", "level"),
    [(1000.0, "ok"), (999.0, "ok"), (997.0, "warning"), (1004.0, "warning")],
)
def test_a_clock_is_judged_within_what_a_whole_second_can_say(theirs: float, level: str) -> None:
    assert clock_finding(theirs, asked=1000.4, received=1000.5).level == level
