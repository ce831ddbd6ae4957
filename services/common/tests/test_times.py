from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.times import micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(
    st.datetimes(datetime(2009, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - the strategy takes naive bounds
    st.integers(0, 9),
    st.integers(0, 999_999_999),
)
def test_any_precision_from_0_to_9_digits_is_read_to_the_microsecond(
    moment: datetime, digits: int, nanos: int
) -> None:
    whole = moment.replace(microsecond=0)
    fraction = f"{nanos:09d}"[:digits]
    seconds = (whole - _EPOCH) // timedelta(seconds=1)
    expected = seconds * 1_000_000 + int(fraction[:6].ljust(6, "0"))
    text = whole.isoformat()[:19] + ("." + fraction if digits else "") + "Z"
    assert micros(text) == expected
    assert micros(text) == expected, "the cached second gives the same"


@given(st.text(alphabet="0129.:-TZ+ ١１x", max_size=32) | st.text())
def test_no_text_raises_and_an_answer_lies_within_the_years(text: str) -> None:
    found = micros(text)
    assert found is None or 1_230_768_000_000_000 <= found < 7_258_118_400_000_000


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        b"2026-07-07T22:58:17Z",
        "",
        "Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00.000000Z",
        "1969-12-31T23:59:59.5Z",
        "2008-12-31T23:59:59.999999Z",
        "2200-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2026-07-07T22:58:17",
        "2026-07-07T22:58:17z",
        "2026-07-07T22:58:17+00:00",
        "2026-07-07T22:58:17.123456",
        "2026-07-07 22:58:17Z",
        "2026-W28-2T22:58:17Z",
        "2026-13-07T22:58:17Z",
        "2026-02-29T22:58:17Z",
        "2026-07-07T22:58:61Z",
        "2026-07-07T22:58:17.Z",
        "2026-07-07T22:58:17.1234567890Z",
        "2026-07-07T22:58:17.12x456Z",
        "2026-07-07T22:58:17.-12345Z",
        "2026-07-07T22:58:17.１Z",
        "2026-07-07T22:58:17.１23456Z",
        "2026-07-07T22:58:17.123456Z\n",
        "２026-07-07T22:58:17Z",
    ],
)
def test_what_is_no_usable_time_is_none(text: object) -> None:
    assert micros(text) is None
