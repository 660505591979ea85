"""What commands print with: escapes, tables, progress."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorded import ESCAPE

from extproc.cli import output
from extproc.cli.output import Cell, Column


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain ünïcode 漢字 👩‍🔬", "plain ünïcode 漢字 👩‍🔬"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x00\x1b[31m\x7f", r"\x00\x1b[31m\x7f"),
        ("\x85\x9b31m", r"\x85\x9b31m"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202eabc\u2066\u200f\u061c", r"\u202eabc\u2066\u200f\u061c"),
        ("\ufeff\U000e0041", r"\ufeff\U000e0041"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_become_visible(text: str, escaped: str) -> None:
    """Each as an escape that a reader knows; all other text as it is."""
    assert output.escape(text) == escaped


def test_nothing_unsafe_stays() -> None:
    """Each control character, separator, mark of direction, invisible character and lone surrogate is escaped."""
    ranges = (
        *((0x00, 0x1F), (0x7F, 0x9F), (0x061C, 0x061C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x206F)),
        *((0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0xD800, 0xDFFF), (0xE0000, 0xE007F)),
    )
    for first, last in ranges:
        for code in range(first, last + 1):
            assert output.escape(f"a{chr(code)}b").isascii()
            assert output.escape(chr(code)) != chr(code)


def test_text_of_several_lines_keeps_line_feeds_and_tabs() -> None:
    """For bodies, which are shown as they are laid out."""
    assert output.escape_text("a\n\tb\r\x1b") == "a\n\tb\\r\\x1b"


@given(st.text())
def test_no_text_leaves_its_line(text: str) -> None:
    """Whatever the data, one line stays one line, for every idea of a line, and holds no control character."""
    escaped = output.escape(text)
    assert len(escaped.splitlines()) <= 1
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in escaped)
    escaped.encode()


def test_json_for_a_terminal_is_ascii_without_controls() -> None:
    """A line of JSON is safe as it is."""
    line = output.json_line({ESCAPE: ESCAPE + "\ud800"})
    assert line.isascii()
    assert line.isprintable()


COLUMNS = (Column("name"), Column("id", 36, fixed=True))
ROWS: list[output.Row] = [(Cell("ok", "green"), "0" * 36), (f"[red]{ESCAPE}", "1" * 36)]


def test_a_table_in_a_pipe_is_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    """No heading, no colour, no padding: for cut and awk."""
    assert output.table(COLUMNS, ROWS) == 2
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ok\t" + "0" * 36
    assert second == f"[red]{output.escape(ESCAPE)}\t" + "1" * 36


def test_a_table_on_a_terminal_has_a_heading_and_escapes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Markup in data is data, and ids are never cut."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.table(COLUMNS, ROWS) == 2
    text = terminal.getvalue()
    assert "name" in text.splitlines()[0]
    assert "\x1b[32mok" in text
    assert "[red]" in text
    assert "1" * 36 in text
    assert "\x1b]" not in text
    assert not set(ESCAPE) & set(text) & {"\x07", "\x9b", "\u202e", "\u2028", "\x7f"}


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without colour is still a table."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    output.table(COLUMNS, ROWS)
    assert "name" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_narrow_terminal_loses_columns_and_not_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a column is worth is said by the width from which on it is shown."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    output.table([Column("wide", 80, worth=1), *COLUMNS], [("w", "n", "0" * 36)])
    assert "wide" not in terminal.getvalue()
    assert "0" * 36 in terminal.getvalue()


def test_a_long_table_is_printed_in_parts_with_one_heading_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the table."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    assert output.table(COLUMNS, ((str(number), "x" * 36) for number in range(1200))) == 1200
    lines = terminal.getvalue().splitlines()
    assert sum("name" in line for line in lines) == 3
    assert len(lines) == 1203


def test_rows_one_at_a_time_have_one_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    """For --follow."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    assert output.table(COLUMNS, (("n", "x" * 36) for _ in range(3)), at_once=True) == 3
    assert len(terminal.getvalue().splitlines()) == 4


def test_progress_says_nothing_for_short_work_or_to_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a person who waits needs it."""
    for stream, after in ((Terminal(), 1000.0), (io.StringIO(), 0.0)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", after)
        with output.Progress("reading") as progress:
            progress("1 of 2")
        assert stream.getvalue() == ""


def test_progress_of_long_work_is_shown_on_one_line_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, escaped, and gone when the work is done."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", 0.0)
    with output.Progress("reading") as progress:
        progress("segment \x1b")
        progress("at most twice a second")
    assert terminal.getvalue() == "\r\x1b[Kreading: segment \\x1b\r\x1b[K"


def test_progress_makes_room_for_a_line_of_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen comes after the progress has gone from its line."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(output, "PROGRESS_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(output, "PROGRESS_EVERY_SECONDS", 0.0)
    seen = [terminal.getvalue()[-4:] for _ in output.chosen(range(4), lambda number: number % 2 == 1)]
    assert seen == ["\r\x1b[K"] * 2
    assert "reading the journal: 1 exchanges" in terminal.getvalue()
