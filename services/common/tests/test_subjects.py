from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import subjects
from services.common.errors import InvalidSubject
from services.common.subjects import StreamKey

TOKENS = st.from_regex(r"[A-Za-z0-9_\-]{1,64}", fullmatch=True)
KEYS = st.builds(StreamKey, TOKENS, TOKENS, TOKENS)
BAD_TOKENS = ["", "a.b", "BTC USD", "BTC*", ">", "a:b", "a@b", "é", "a\n", "x" * 65]


@given(KEYS, st.integers(0, 1023))
def test_a_stream_is_found_again_in_every_name_made_of_it(key: StreamKey, shard: int) -> None:
    assert StreamKey.parse(str(key)) == key
    raw, tick = subjects.raw_subject(key), subjects.tick_subject(shard, key)
    assert subjects.key_of(raw) == subjects.key_of(tick) == key
    assert subjects.log_of(raw) == "raw"
    assert subjects.log_of(tick) == subjects.tick_log(shard) == f"tick.{shard}"


def test_the_names_are_those_of_the_contract() -> None:
    key = StreamKey("coinbase", "ticker", "BTC-USD")
    assert str(key) == "coinbase:ticker:BTC-USD"
    assert subjects.raw_subject(key) == "market.raw.coinbase.ticker.BTC-USD"
    assert subjects.tick_subject(3, key) == "market.tick.3.coinbase.ticker.BTC-USD"
    assert subjects.log_of("market.invalid") == "invalid"
    assert [subjects.log_subjects(log) for log in ("raw", "tick.3", "invalid")] == [
        "market.raw.>",
        "market.tick.3.>",
        "market.invalid",
    ]
    assert [subjects.jetstream_name("MARKET", log) for log in ("raw", "tick.3", "invalid")] == [
        "MARKET_RAW",
        "MARKET_TICK_3",
        "MARKET_INVALID",
    ]
    assert subjects.redis_key("market", "market.raw.a.b.c", 7) == "market:market.raw.a.b.c@7"
    assert subjects.redis_registry_key("market", "tick.3") == "market:registry:tick.3"


@given(st.text(max_size=80).filter(bool), KEYS, st.integers(0, 1023))
def test_a_pulse_has_subjects_beside_the_streams_whatever_its_line_is_called(
    line: str, key: StreamKey, shard: int
) -> None:
    pulse = subjects.pulse_key("coinbase", line)
    for subject in (subjects.raw_subject(pulse), subjects.tick_subject(shard, pulse)):
        assert subjects.is_pulse(subject)
        assert subjects.key_of(subject) == pulse
    for subject in (subjects.raw_subject(key), subjects.tick_subject(shard, key)):
        assert subjects.is_pulse(subject) is (key.channel == subjects.PULSE)
    assert subjects.PULSE not in subjects.CHANNELS


@pytest.mark.parametrize(
    "subject", ["market.invalid", "", "pulse.x", "other.raw.a.pulse.x", "market.raw.pulse.pulse"]
)
def test_no_other_subject_is_taken_for_a_pulse(subject: str) -> None:
    assert not subjects.is_pulse(subject)


@pytest.mark.parametrize("token", BAD_TOKENS)
@pytest.mark.parametrize("place", range(3))
def test_a_token_with_a_meaning_never_enters_a_subject(token: str, place: int) -> None:
    names = ["coinbase", "ticker", "BTC-USD"]
    names[place] = token
    key = StreamKey(*names)
    for make in (subjects.raw_subject, lambda key: subjects.tick_subject(0, key)):
        with pytest.raises(InvalidSubject):
            make(key)
    with pytest.raises(InvalidSubject):
        StreamKey.parse(str(key))


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "market",
        "market.raw",
        "market.raw.coinbase.ticker",
        "market.raw.coinbase.ticker.BTC-USD.more",
        "market.raw...",
        "market.raw.coinbase.*.BTC-USD",
        "market.tick.x.coinbase.ticker.BTC-USD",
        "market.tick.².coinbase.ticker.BTC-USD",
        "market.tick.-1.coinbase.ticker.BTC-USD",
        "market.tick.01.coinbase.ticker.BTC-USD",
        "market.other.coinbase.ticker.BTC-USD",
        "other.raw.coinbase.ticker.BTC-USD",
        "market.invalid",
    ],
)
def test_a_foreign_subject_belongs_to_no_stream(subject: str) -> None:
    with pytest.raises(InvalidSubject):
        subjects.key_of(subject)


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:b:c:d", "a::c", "coinbase:ticker:BTC USD"])
def test_what_is_no_stream_is_refused(text: str) -> None:
    with pytest.raises(InvalidSubject):
        StreamKey.parse(text)
