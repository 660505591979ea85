"""A series read while it grows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import append, id_of, journal, request, response, segments

from extproc.history import tail
from extproc.history.tail import Tail
from extproc.journal import lines, recovery
from extproc.journal.lines import Line


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def until_quiet(following: Iterator[Line | None]) -> list[Line]:
    """The lines that are there at this moment."""
    found: list[Line] = []
    while (line := next(following)) is not None:
        found.append(line)
    return found


def test_each_line_once_however_it_arrives(data: Path) -> None:
    """A line written a byte at a time comes when its line end has come."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    source = data / "segments" / segments(data)[0]
    raw = source.read_bytes()
    source.unlink()
    growing = data / "segments" / "w0-b1-000001.jsonl.open"
    growing.touch()
    (series,) = lines.series(data)
    following = iter(Tail(series, follow=True))
    seen: list[int] = []
    for at in range(len(raw)):
        with growing.open("ab") as file:
            file.write(raw[at : at + 1])
        while (line := next(following)) is not None:
            assert line.damage is None
            seen.append(line.record["seq"])
        assert len(seen) == raw[: at + 1].count(b"\n")
    assert seen == [1, 2, 3, 4]


def test_lines_longer_than_a_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read grows until the line is whole."""
    monkeypatch.setattr(tail, "_CHUNK", 64)
    with journal(data) as writer:
        append(writer, request(1, b"x" * 10_000), response(1))
        found = [line.record for line in Tail(lines.series(data)[0]) if line is not None]
    assert [record["type"] for record in found] == ["segment", "request", "response"]
    assert found[1]["id"] == id_of(1)


def test_what_was_rewritten_behind_the_reader_is_not_given_again(data: Path) -> None:
    """Recovery cuts a torn end off, even one with line ends in it, and goes on with orphans."""
    with journal(data) as writer:
        append(writer, request(1))
    path = data / "segments" / segments(data)[0]
    good = path.read_bytes()
    path.write_bytes(good + b"garbage\n" * 200)
    (series,) = lines.series(data)
    source = Tail(series, follow=True)
    following = iter(source)
    first = until_quiet(following)
    assert [line.record.get("seq") for line in first if line.damage is None] == [1, 2]
    os.truncate(path, len(good))
    recovery.recover(data)
    source.refresh(lines.series(data)[0])
    rest = until_quiet(following)
    assert [line.record["type"] for line in rest if line.damage is None] == ["orphan", "end"]
