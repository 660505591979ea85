"""What is wrong with a journal is named: the file, the line, what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.journals import abandon, access, append, appended, id_of, journal, request, response, segments, write

from extproc.core.effects import Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.core.record import seal, unseal
from extproc.history import reader, verify
from extproc.journal import retention
from extproc.journal.lock import lock_directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def findings(data: Path) -> list[str]:
    """What `verify` says, with the names shortened."""
    return [str(finding).replace(f"{data}/", "") for finding in verify.verify(data)]


def whole(data: Path) -> Path:
    """A journal of two segments, with bodies of every kind and nothing wrong; its first segment."""
    with journal(data, segment_bytes=4500) as writer:
        append(writer, request(1), response(1, b"\xff\x00binary"), request(2, b""), response(2))
        assert write(writer, Spool(id_of(3), Direction.RESPONSE, [b"large"])) is None
        append(writer, request(3))
        end = appended(response(3, b"large", file=True))
        assert write(writer, SpoolEnd(id_of(3), Direction.RESPONSE), end) is None
        append(writer, request(4), response(4))
    assert segments(data) == ["w0-b1-000001.jsonl", "w0-b1-000002.jsonl"]
    assert findings(data) == []
    return data / "segments" / "w0-b1-000001.jsonl"


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a segment."""
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    """The line with something else in it and a checksum that fits, as only someone with intent makes it."""
    record = unseal(line)
    start = line[: line.rfind(b',"worker":')] + b"}"
    assert old in start
    return seal(start.replace(old, new), record["worker"], record["boot_id"], record["seq"])


FIRST = "segments/w0-b1-000001.jsonl"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"POST", b"PUTT"), *lines[2:]], rf"{FIRST}:2: the checksum is"),
        (lambda lines: [*lines[:2], *lines[3:]], rf"{FIRST}:3: line number 3 should follow, but it is 4"),
        (lambda lines: [*lines[:2], lines[2], *lines[2:]], rf"{FIRST}:4: .* a second terminal record"),
        (lambda lines: [*lines[:1], lines[1], *lines[1:]], rf"{FIRST}:3: .* a second request record"),
        (lambda lines: lines[1:], rf"{FIRST}:1: the first line is no segment header"),
        (lambda lines: lines[:-1], rf"{FIRST}:\d+: the segment is closed but has no footer: it was cut"),
        (lambda lines: [], rf"{FIRST}: the segment is empty"),
        (lambda lines: [*lines, b'{"half'], rf"{FIRST}:\d+: the line is cut off"),
        (lambda lines: [*lines[:3], b"{}\n", *lines[3:]], rf"{FIRST}:4: the line does not end with a checksum"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], rf"{FIRST}:3: line number 3 should follow"),
        (
            lambda lines: [lines[0], resealed(lines[1], b'"text":"{}"', b'"text":"[]"'), *lines[2:]],
            rf"{FIRST}:2: exchange .*: request body: its SHA-256 is",
        ),
        (
            lambda lines: [lines[0], resealed(lines[1], b'"text":"{}"', b'"text":"{ }"'), *lines[2:]],
            rf"{FIRST}:2: exchange .*: request body: 3 bytes are there, the record says 2",
        ),
        (
            lambda lines: [
                lines[0],
                resealed(lines[1], b'"body":{"text":"{}"}', b'"body":{"file":"../x"}'),
                *lines[2:],
            ],
            rf"{FIRST}:2: exchange .*: request body: a record refers to a body by a name that is none",
        ),
    ],
)
def test_what_is_wrong_is_named(data: Path, change: Callable[[list[bytes]], list[bytes]], expected: str) -> None:
    """Each kind of damage to a closed segment, with the place."""
    rewrite(whole(data), change)
    assert any(re.match(expected, finding) for finding in findings(data)), findings(data)


def test_a_segment_under_another_name(data: Path) -> None:
    """Two segments swapped, or one that belongs to another worker."""
    path = whole(data)
    path.rename(data / "segments" / "w1-b1-000001.jsonl")
    assert any("the line belongs to w0-b1" in finding for finding in findings(data))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"lArge", r"its SHA-256 is [0-9a-f]{64}, the record says [0-9a-f]{64}"),
        (b"larg", "4 bytes are there, the record says 5"),
        (None, "No such file or directory"),
    ],
)
def test_a_body_file_that_was_changed(data: Path, content: bytes | None, what: str) -> None:
    """Its digest, its length, its absence."""
    whole(data)
    path = data / "bodies" / f"{id_of(3)}.response"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert any(re.search(f"exchange {id_of(3)}: response body: .*{what}", finding) for finding in findings(data))


def test_a_body_that_belongs_to_nothing(data: Path) -> None:
    """A file whose exchange has no record, and one that no journal would write."""
    whole(data)
    (data / "bodies" / f"{id_of(99)}.request").touch()
    (data / "bodies" / "notes.txt").touch()
    assert sorted(findings(data)) == [
        f"bodies/{id_of(99)}.request: the body of no recorded exchange",
        "bodies/notes.txt: the body of no recorded exchange",
    ]


def test_compressed_segments_are_verified(data: Path) -> None:
    """Whole, and with a byte flipped anywhere in the frame."""
    path = whole(data)
    retention.compress_closed(data)
    compressed = path.with_suffix(".jsonl.zst")
    raw = compressed.read_bytes()
    assert findings(data) == []
    for at in range(0, len(raw), 7):
        flipped = bytearray(raw)
        flipped[at] ^= 0xFF
        compressed.write_bytes(flipped)
        assert any(str(compressed.name) in finding for finding in findings(data)), at
    for cut in range(0, len(raw), 11):
        compressed.write_bytes(raw[:cut])
        assert any(str(compressed.name) in finding for finding in findings(data)), cut


def test_in_flight_beside_a_running_sidecar_is_no_finding(data: Path) -> None:
    """While the segment is live, or a sidecar holds the directory; once nobody does, it is."""
    with journal(data) as writer:
        append(writer, request(1))
        assert findings(data) == []
        abandon(writer)
    with lock_directory(data):
        assert findings(data) == []
    assert findings(data) == [
        f"segments/w0-b1-000001.jsonl.open:2: exchange {id_of(1)} has no terminal record, and no sidecar is running"
    ]


def test_half_a_line_beside_a_running_writer_is_no_finding(data: Path) -> None:
    """It is the line that is just being written; in a segment that nobody writes, it is one."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        path = data / "segments" / segments(data)[0]
        whole_lines = path.read_bytes()
        with path.open("ab") as file:
            file.write(b'{"type":"requ')
        assert findings(data) == []
        path.write_bytes(whole_lines)
        abandon(writer)
    with path.open("ab") as file:
        file.write(b'{"type":"requ')
    assert findings(data) == ["segments/w0-b1-000001.jsonl.open:4: the line is cut off"]


def test_no_journal_at_all(tmp_path: Path) -> None:
    """A directory without segments is named, not passed as whole."""
    assert "this is no journal" in findings(tmp_path)[0]


def test_progress_is_told(data: Path) -> None:
    """Each segment's name, for who waits."""
    whole(data)
    told: list[str] = []
    assert list(verify.verify(data, told.append)) == []
    assert told == segments(data)


def test_access_entries_are_nothing_wrong(data: Path) -> None:
    """Whether they name an exchange, one that nobody has, or none; also in a segment that was compressed."""
    with journal(data) as writer:
        append(writer, access(None), request(1), response(1), access(1), access(7), access(1))
    assert findings(data) == []
    retention.compress_closed(data)
    assert findings(data) == []


@pytest.mark.parametrize("suffix", [".1", "-20261127"])
@pytest.mark.parametrize("running", [True, False])
def test_segments_that_another_program_has_renamed(data: Path, running: bool, suffix: str) -> None:
    """Each is named, with what to do; what they hold is read as before; with its name back everything is well."""
    with journal(data, segment_bytes=900) as writer:
        for number in range(6):
            append(writer, request(number), response(number))
        if not running:
            writer.close(30)
        names = segments(data)
        for name in names:
            (data / "segments" / name).rename(data / "segments" / f"{name}{suffix}")
        found = list(verify.verify(data))
        assert [finding.file.name for finding in found] == [f"{name}{suffix}" for name in names]
        assert all("renamed; give it its name again" in finding.what for finding in found)
        assert len(list(reader.exchanges([data]))) == 6
        for name in names:
            (data / "segments" / f"{name}{suffix}").rename(data / "segments" / name)
        assert list(verify.verify(data)) == []


def test_a_segment_that_is_missing(data: Path) -> None:
    """It is named by the name that it had, and what is left is read."""
    with journal(data, segment_bytes=900) as writer:
        for number in range(6):
            append(writer, request(number), response(number))
    names = segments(data)
    (data / "segments" / names[1]).unlink()
    found = next(finding for finding in verify.verify(data) if finding.file.name == names[1])
    assert "missing" in found.what
    assert len(list(reader.exchanges([data]))) > 2
