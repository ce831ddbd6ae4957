from __future__ import annotations

import pytest

from services.common.errors import SettingsError
from services.common.settings import load
from services.snapshotter.settings import SnapshotterSettings


@pytest.mark.parametrize(
    ("text", "shards"),
    [("all", [0, 1, 2, 3]), ("2", [2]), ("0-1,3", [0, 1, 3]), ("1, 0-1", [0, 1])],
)
def test_shards_are_read_from_numbers_and_ranges(
    monkeypatch: pytest.MonkeyPatch, text: str, shards: list[int]
) -> None:
    monkeypatch.setenv("SHARD_COUNT", "4")
    monkeypatch.setenv("SNAPSHOTTER_SHARDS", text)
    assert load(SnapshotterSettings).shards == shards


@pytest.mark.parametrize("text", ["4", "0-4", "x", "3-1", "-1", "1-"])
def test_shards_that_do_not_exist_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SHARD_COUNT", "4")
    monkeypatch.setenv("SNAPSHOTTER_SHARDS", text)
    with pytest.raises(SettingsError, match=f"SNAPSHOTTER_SHARDS='{text}': expected"):
        load(SnapshotterSettings)


def test_every_record_is_acked_before_the_broker_gives_it_to_somebody_else() -> None:
    settings = SnapshotterSettings(archive_period_s=120)
    assert settings.ack_wait_s > settings.archive_period_s * 2
