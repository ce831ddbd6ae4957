from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import SettingsError
from services.common.settings import load, settings_table
from services.normalizer.settings import NormalizerSettings
from services.normalizer.shard import parse_shards, shard_label


@pytest.mark.parametrize(
    ("text", "shards", "label"),
    [
        ("all", range(8), "all"),
        (" ALL ", range(8), "all"),
        ("0-7", range(8), "all"),
        ("0-3", [0, 1, 2, 3], "0-3"),
        ("5", [5], "5"),
        ("1,4-6", [1, 4, 5, 6], "1_4-6"),
        ("6,5 , 4,1", [1, 4, 5, 6], "1_4-6"),
        ("0,1,2,2-3", [0, 1, 2, 3], "0-3"),
    ],
)
def test_shards_are_read_and_named(text: str, shards: list[int], label: str) -> None:
    assert parse_shards(text, 8) == frozenset(shards)
    assert shard_label(parse_shards(text, 8), 8) == label


@pytest.mark.parametrize(
    "text", ["", "none", "8", "0-8", "3-1", "-1", "1-", "1..3", "1,,2", "1;2", "0x1", "１"]
)
def test_what_is_no_set_of_existing_shards_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_shards(text, 8)


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_label_names_exactly_one_set(case: tuple[int, set[int]]) -> None:
    count, shards = case
    if shards:
        assert parse_shards(shard_label(shards, count).replace("_", ","), count) == shards


def test_a_bad_range_stops_the_service_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NORMALIZER_SHARDS", "0-9")
    monkeypatch.setenv("SHARD_COUNT", "4")
    with pytest.raises(SettingsError) as refusal:
        load(NormalizerSettings)
    assert refusal.value.problems == [
        "NORMALIZER_SHARDS='0-9': expected shards below SHARD_COUNT=4, got 9"
    ]


def test_each_set_of_shards_has_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(NormalizerSettings).group == "normalizer-all"
    monkeypatch.setenv("NORMALIZER_SHARDS", "0-3")
    assert load(NormalizerSettings).group == "normalizer-0-3"
    monkeypatch.setenv("CONSUMER_GROUP", "blue")
    assert load(NormalizerSettings).group == "blue-0-3"


def test_the_readme_lists_the_settings_as_they_are() -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    assert settings_table(NormalizerSettings) in readme.read_text()
