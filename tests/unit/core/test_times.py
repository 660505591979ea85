"""Moments as texts: they sort by time, and what is damaged stays as it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.journals import START_NS, id_of

from extproc.core.times import later, milliseconds, moment, moment_text, started_by_id, timestamp


def test_a_timestamp_has_microseconds_and_is_utc() -> None:
    """Also before the epoch's second billion, and after 2038."""
    assert timestamp(1_732_150_800_123_456_789) == "2024-11-21T01:00:00.123456Z"
    assert timestamp(4_102_444_800_000_000_000) == "2100-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("ns", [0, START_NS, START_NS + 999_999_000])
def test_a_moment_and_its_text(ns: int) -> None:
    """There and back, and the same text as that of its nanoseconds."""
    at = datetime.fromtimestamp(ns // 1_000_000_000, UTC).replace(microsecond=ns // 1000 % 1_000_000)
    assert moment_text(at) == timestamp(ns)
    assert moment(timestamp(ns)) == at


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00.000000Z"])
def test_what_is_no_moment(text: str | None) -> None:
    """It is none, and no time has passed since."""
    assert moment(text) is None
    assert milliseconds(text or "", timestamp(START_NS)) is None
    assert milliseconds(timestamp(START_NS), text) is None


@pytest.mark.parametrize(("more_ns", "expected"), [(1_500_000, 1.5), (0, 0.0), (-1_000_000_000, 0.0)])
def test_the_time_between_two_moments(more_ns: int, expected: float) -> None:
    """In milliseconds, to the microsecond; a clock that was set back makes it nothing."""
    assert milliseconds(timestamp(START_NS), timestamp(START_NS + more_ns)) == expected


@pytest.mark.parametrize(("id", "expected"), [(id_of(1), timestamp(START_NS)), ("x", ""), ("", ""), (id_of(1)[:8], "")])
def test_the_time_in_an_id(id: str, expected: str) -> None:
    """A UUIDv7 tells its millisecond; anything else tells nothing."""
    assert started_by_id(id) == expected


@pytest.mark.parametrize("at", ["", "yesterday", "9999-12-31T23:59:59Z"])
def test_no_moment_is_later_than_what_is_none(at: str) -> None:
    """Damaged times stay as they are."""
    assert later(at, 5) == at


@pytest.mark.parametrize(
    ("at", "seconds", "expected"),
    [
        ("2026-02-28T23:59:54.999999Z", 5, "2026-02-28T23:59:59.999999Z"),
        ("2026-02-28T23:59:55.000000Z", 5, "2026-03-01T00:00:00.000000Z"),
        ("2026-02-28T23:59:00.000001Z", 0.5, "2026-02-28T23:59:00.500001Z"),
        ("2026-02-28T23:59:05.000000Z", -60, "2026-02-28T23:58:05.000000Z"),
        ("2026-02-28T23:59:05.000000+01:00", 1, "2026-02-28T22:59:06.000000Z"),
    ],
)
def test_a_moment_later(at: str, seconds: float, expected: str) -> None:
    """Within a minute and across the end of one, to the microsecond."""
    assert later(at, seconds) == expected
