"""Moments as records have them: RFC 3339 in UTC with microseconds, so that as texts they sort by time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_SECOND: Final = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
)
_CHARACTERS: Final = 27
_MICROSECONDS: Final = 1_000_000


def timestamp(ns: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC with microseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_date_and_time(seconds)}.{rest // 1000:06d}Z"


def moment_text(at: datetime) -> str:
    """A moment as `timestamp` writes it, so that the two sort together."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def moment(text: str | None) -> datetime | None:
    """A record's moment; None where there is none or it is damaged."""
    try:
        return datetime.fromisoformat(text) if text else None
    except (ValueError, TypeError):
        return None


def started_by_id(id: str) -> str:
    """When an exchange began, RFC 3339, by its id: a UUIDv7 begins with its milliseconds. Empty for another id."""
    if _UUID7.fullmatch(id) is None:
        return ""
    return timestamp(int(id.replace("-", "")[:12], 16) * 1_000_000)


def later(at: str, seconds: float) -> str:
    """A moment so much later, as text that sorts; the same text where it is no moment."""
    if len(at) == _CHARACTERS and at[19] == "." and at[26] == "Z" and (fraction := at[20:26]).isdecimal():
        whole, rest = divmod(int(fraction) + round(seconds * _MICROSECONDS), _MICROSECONDS)
        second = _second_later(at[:19], whole)
        if second:
            return f"{second}.{rest:06d}Z"
    try:
        then = datetime.fromisoformat(at) + timedelta(seconds=seconds)
    except (ValueError, OverflowError):
        return at
    return moment_text(then)


@lru_cache(maxsize=256)  # it is asked for each record, and thousands share a second
def _second_later(second: str, seconds: int) -> str:
    """The same of whole seconds, in UTC without a word on that; empty where it is none."""
    if _SECOND.fullmatch(second) is None:
        return ""
    try:
        return (datetime.fromisoformat(second) + timedelta(seconds=seconds)).isoformat()
    except (ValueError, OverflowError):
        return ""


def milliseconds(started_at: str, ended_at: str | None) -> float | None:
    """How long it was from one moment to another, never less than nothing; None where one of them is none."""
    if not started_at or not ended_at:
        return None
    try:
        span = datetime.fromisoformat(ended_at) - datetime.fromisoformat(started_at)
    except (ValueError, TypeError):
        return None
    return max(0.0, round(span.total_seconds() * 1000, 3))


@lru_cache(maxsize=8)  # thousands of records share a second; formatting it costs more than the rest of a timestamp
def _date_and_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
