"""Moments and spans of time as people write them, and where the journal is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from extproc.cli import options
from extproc.errors import ConfigError

NOW = datetime(2026, 11, 21, 2, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's clock is an hour before UTC."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T03:12:00Z", "2026-11-21T03:12:00+00:00"),
        ("2026-11-21T03:12:00.250000+02:00", "2026-11-21T01:12:00.250000+00:00"),
        ("2026-11-21T03:12:00", "2026-11-21T02:12:00+00:00"),
        ("2026-11-21 03:12", "2026-11-21T02:12:00+00:00"),
        ("2026-11-21", "2026-11-20T23:00:00+00:00"),
        ("03:12", "2026-11-21T02:12:00+00:00"),
        ("3:11:30", "2026-11-21T02:11:30+00:00"),
        ("03:13", "2026-11-20T02:13:00+00:00"),
        ("10m", "2026-11-21T02:02:00+00:00"),
        ("1h30m", "2026-11-21T00:42:00+00:00"),
        ("1.5h", "2026-11-21T00:42:00+00:00"),
        ("2d", "2026-11-19T02:12:00+00:00"),
        ("500ms", "2026-11-21T02:11:59.500000+00:00"),
        ("now", "2026-11-21T02:12:00+00:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    """RFC 3339, dates, clock times (the last such) and ages; without an offset on the reader's clock."""
    assert options.parse_moment(text, NOW) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "10 m", "-5m", "m", "25:00", "2026-13-01", "2026-11", "9e99w", "999999999999d"]
)
def test_what_is_no_moment_is_an_error_that_shows_what_would_be(text: str) -> None:
    """The message names the forms."""
    with pytest.raises(click.BadParameter, match="expected a time such as 2026-11-21T03:12:00Z"):
        options.Moment().convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("1.5", 1.5), ("5m", 300.0), ("1m30s", 90.0), (7, 7.0)])
def test_spans(text: str | int, seconds: float) -> None:
    """A number is seconds; units may be named."""
    assert options.Seconds().convert(text, None, None) == seconds


def test_what_is_no_span_is_an_error() -> None:
    """A word, a negative number."""
    for text in ("soon", "-1", "5 m", ""):
        with pytest.raises(click.BadParameter, match="expected a duration"):
            options.Seconds().convert(text, None, None)


def test_the_journal_is_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --data-dir the settings decide, and their default is `data`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert options.existing([], None) == [Path("data")]
    (tmp_path / "journal").mkdir()
    (tmp_path / "extproc.yaml").write_text("data_dir: journal\n")
    assert options.existing([], None) == [Path("journal")]


def test_data_dir_needs_no_settings_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a journal can be read where the settings are wrong, and several at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extproc.yaml").write_text("wrong: 1\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert options.existing([Path("a"), Path("b")], None) == [Path("a"), Path("b")]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    """One line, with what to do."""
    with pytest.raises(ConfigError, match=r"/nowhere: there is no such data directory; name one with --data-dir$"):
        options.existing([tmp_path, tmp_path / "nowhere"], None)
