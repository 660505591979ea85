"""Segments as lines, in whatever state they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.journals import Faults, append, id_of, journal, request, response, segments

from extproc.core.record import encode, seal
from extproc.journal import frames, lines, retention
from extproc.journal.segment import CLOSED, COMPRESSED, Name

NAME = Name(0, "b", 1)


def sealed(seq: int, text: str = "x") -> bytes:
    """A line."""
    return seal(encode({"type": "x", "text": text}), 0, "b", seq)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with room for segments."""
    (tmp_path / "segments").mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    return tmp_path


def read(data: Path, content: bytes) -> list[tuple[int, int | None, str | None]]:
    """Line number, sequence number and damage of each line of a segment with that content."""
    (data / "segments" / str(NAME)).write_bytes(content)
    return [(line.number, line.record.get("seq"), line.damage) for line in lines.read_lines(data, NAME)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (sealed(1) + sealed(2), [(1, 1, None), (2, 2, None)]),
        (sealed(1) + sealed(2)[:-1], [(1, 1, None), (2, None, lines.CUT_OFF)]),
        (sealed(1) + sealed(2)[:20], [(1, 1, None), (2, None, lines.CUT_OFF)]),
        (
            sealed(1)[:-1] + b"\0" + sealed(2) + sealed(3),
            [(1, None, lines.LOST_LINE_END), (1, 1, None), (1, 2, None), (2, 3, None)],
        ),
        (
            sealed(1)[:-1] + b"\0" + sealed(2)[:-1] + b"\r" + sealed(3),
            [(1, None, lines.LOST_LINE_END), (1, 1, None), (1, 2, None), (1, 3, None)],
        ),
        (b"\n" + sealed(1), [(1, None, "the line does not end with a checksum"), (2, 1, None)]),
    ],
)
def test_lines_and_their_damage(data: Path, content: bytes, expected: list[tuple[int, int | None, str | None]]) -> None:
    """Whole lines, half a line, a line end that became something else."""
    assert read(data, content) == expected


def test_text_cannot_look_like_a_lost_line_end(data: Path) -> None:
    """What a client sends is escaped, so a damaged line is not taken apart at a place of its choosing."""
    forged = sealed(7).decode().strip() + "\x00" + sealed(8).decode()
    line = bytearray(sealed(1, forged))
    line[3] ^= 1
    assert len(read(data, bytes(line))) == 1


def test_a_segment_is_found_under_its_new_name(data: Path) -> None:
    """Listed while it was open, read when it is compressed."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        (name,) = lines.series(data)[0].names
    retention.compress_closed(data)
    assert segments(data) == ["w0-b1-000001.jsonl.zst"]
    assert [line.record["type"] for line in lines.read_lines(data, name)] == ["segment", "request", "response", "end"]
    (data / "segments" / segments(data)[0]).unlink()
    with pytest.raises(FileNotFoundError):
        list(lines.read_lines(data, name))
    assert lines.header(data, name) is None


def test_garbage_without_an_end_is_read_in_pieces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line longer than any record costs bounded memory."""
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    assert len(read(data, b"x" * 3500 + b"\n" + sealed(1))) == 5


def test_a_directory_is_read_again_when_it_has_changed_only(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for, and however many segments there are: what costs time is a change."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, *(record for number in range(20) for record in (request(number), response(number))))
    listing = lines.Listing(data)
    reads = Faults(monkeypatch)
    reads.fail("scandir", times=0)
    os.utime(data / "segments", (1, 1))  # a change in this very moment could leave the same time behind
    first = listing.series()
    assert all(listing.series() is first for _ in range(100))
    assert reads.calls == ["scandir"]
    (data / "segments" / segments(data)[0]).unlink()
    assert len(listing.series()[0].names) == len(first[0].names) - 1


def test_a_directory_that_has_just_changed_is_read_again(data: Path) -> None:
    """Two changes within one tick of the clock have one time: the second is seen all the same."""
    with journal(data) as writer:
        append(writer, request(1))
        listing = lines.Listing(data)
        for number in range(2, 50):
            (data / "segments" / f"w0-b1-{number:06d}.jsonl").touch()
            assert len(listing.series()[0].names) == number
            assert listing.series() == lines.series(data)
        for path in (data / "segments").glob("*.jsonl"):
            path.unlink()
        append(writer, response(1))


def test_no_journal_has_no_series(tmp_path: Path) -> None:
    """Until there is one."""
    listing = lines.Listing(tmp_path)
    assert listing.series() == []
    with journal(tmp_path) as writer:
        assert len(listing.series()) == 1
        append(writer, request(1), response(1))


def test_a_line_by_its_place_in_any_state(data: Path) -> None:
    """The same line while its segment is open, closed and compressed; between lines there is none."""
    with journal(data) as writer:
        append(writer, *(request(number, b"x" * 500_000) for number in range(1, 6)), *map(response, range(1, 6)))
        (name,) = lines.series(data)[0].names
        before = [line for line in lines.read_lines(data, name) if "id" in line.record]
        for line in before:
            found = lines.line_at(data, name, line.offset)
            assert found is not None
            assert found.record == line.record
    retention.compress_closed(data)
    (compressed,) = lines.series(data)[0].names
    for line in before:
        for listed in (name, compressed):
            found = lines.line_at(data, listed, line.offset)
            assert found is not None
            assert (found.record, found.offset, found.end) == (line.record, line.offset, line.end)
        assert lines.line_at(data, compressed, line.offset + 1) is None
        following = [each.record for each in lines.read_lines(data, compressed, line.offset)]
        assert following[0] == line.record
        assert len(following) == len(before) - before.index(line) + 1
    assert lines.line_at(data, compressed, 10**9) is None
    (data / "segments" / str(compressed)).unlink()
    assert lines.line_at(data, compressed, before[0].offset) is None


def test_a_line_is_read_beside_a_damaged_frame(data: Path) -> None:
    """What is damaged costs the lines of its frame to those who ask for them, and none to others."""
    with journal(data) as writer:
        append(writer, *(request(number, os.urandom(800_000)) for number in range(1, 6)), *map(response, range(1, 6)))
    retention.compress_closed(data)
    (name,) = lines.series(data)[0].names
    read = [line for line in lines.read_lines(data, name) if line.record["type"] == "request"]
    places = {line.record["id"]: line.offset for line in read}
    path = data / "segments" / str(name)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    found = {id: lines.line_at(data, name, offset) for id, offset in places.items()}
    assert len(found) == 5
    for id in (id_of(1), id_of(5)):
        line = found[id]
        assert line is not None
        assert line.record["id"] == id
    assert None in found.values()
    assert any(line.damage for line in lines.read_lines(data, name))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", None),
        (sealed(1), 1),
        (sealed(1) + sealed(2), 2),
        (b"garbage\n" + sealed(2), 2),
        (sealed(1) + b"garbage\n", None),
        (sealed(1) + sealed(2)[:-1], None),
        (sealed(1) + sealed(2)[:-1] + b"\0" + sealed(3), 3),
        (sealed(1) * 100 + sealed(2), 2),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_last_record(data: Path, content: bytes, expected: int | None, compressed: bool) -> None:
    """That of the last line, whatever stands before; none where that line is not whole, or the segment is gone."""
    closed = data / "segments" / f"{NAME.stem}{CLOSED}"
    closed.write_bytes(content)
    if compressed:
        with closed.open("rb") as source, closed.with_name(f"{NAME.stem}{COMPRESSED}").open("wb") as target:
            frames.compress(source, target)
        closed.unlink()
    last = lines.last_record(data, NAME)
    assert (last and last.seq) == expected
    assert lines.last_record(data, Name(0, "b", 2)) is None
