"""The files: names, modes, appending, closing, setting aside."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import Trace

from extproc.journal import segment
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name, Segment

NAME = Name(0, "0193c0de", 7, segment.OPEN)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A handle on an empty directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("w0-0193c0de-000001.jsonl.open", Name(0, "0193c0de", 1, ".jsonl.open")),
        ("w12-0193c0de-1234-000012.jsonl", Name(12, "0193c0de-1234", 12, ".jsonl")),
        ("w0-b-1000000.jsonl.zst", Name(0, "b", 1000000, ".jsonl.zst")),
        ("w0-b-000001.torn", None),
        ("w0-b-000001.jsonl.zst.tmp", None),
        ("w0-b-1.jsonl", None),
        ("w0-../../etc-000001.jsonl", None),
    ],
)
def test_names(text: str, name: Name | None) -> None:
    """A segment's name says worker, boot, number and state, and nothing else is taken for one."""
    assert Name.parse(text) == name
    assert name is None or str(name) == text


def test_names_of_a_directory_sort_by_series_and_number(tmp_path: Path) -> None:
    """Numbers sort as numbers, and a segment that is there closed and compressed counts once, as closed."""
    for text in ("w0-b-000010.jsonl", "w0-b-000009.jsonl.zst", "w0-b-000010.jsonl.zst", "w0-a-000011.jsonl.open", "x"):
        (tmp_path / text).touch()
    (tmp_path / "w0-b-000001.jsonl").symlink_to("x")
    found = [str(name) for name in segment.names(tmp_path)]
    assert found == ["w0-a-000011.jsonl.open", "w0-b-000009.jsonl.zst", "w0-b-000010.jsonl"]


def test_a_segment_is_private_and_new(tmp_path: Path, directory: int) -> None:
    """0600, its header first; a file or a link of that name is never opened."""
    Segment.create(directory, NAME, b"header\n", sync=True).set_aside()
    path = tmp_path / str(NAME)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"header\n"
    with pytest.raises(FileExistsError):
        Segment.create(directory, NAME, b"header\n", sync=True)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        Segment.create(directory, NAME, b"header\n", sync=True)
    assert not (tmp_path / "elsewhere").exists()


def test_short_writes_are_continued(tmp_path: Path, directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes three bytes at a time still gets every byte, in order, once."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    made = Segment.create(directory, NAME, b"header\n", sync=False)
    made.append(b"0123456789\n")
    made.close(b"end\n", sync=False)
    assert (tmp_path / (NAME.stem + ".jsonl")).read_bytes() == b"header\n0123456789\nend\n"


def test_setting_aside_cuts_back_to_what_was_acknowledged(tmp_path: Path, directory: int) -> None:
    """Lines that nobody was told about do not stay behind."""
    made = Segment.create(directory, NAME, b"header\n", sync=False)
    made.append(b"kept\n")
    made.acknowledge(1)
    made.append(b"not kept\n")
    made.set_aside()
    assert (tmp_path / str(NAME)).read_bytes() == b"header\nkept\n"


def test_live_while_its_process_holds_it(tmp_path: Path, directory: int) -> None:
    """An `.open` segment is live until its file is closed; a link or a missing file never is."""
    made = Segment.create(directory, NAME, b"header\n", sync=False)
    path = tmp_path / str(NAME)
    assert segment.is_live(path)
    made.set_aside()
    assert not segment.is_live(path)
    assert not segment.is_live(tmp_path / "missing")


@pytest.mark.parametrize("suffix", [".1", "-20261127", ".2.1", "-2026112703"])
@pytest.mark.parametrize("state", [OPEN, CLOSED, COMPRESSED])
def test_a_name_that_another_program_has_changed(tmp_path: Path, state: str, suffix: str) -> None:
    """It is read as the segment that it was, and named; where its right name is there as well, that one counts."""
    moved = tmp_path / f"w0-b1-000001{state}{suffix}"
    moved.touch()
    assert list(map(str, segment.names(tmp_path))) == [moved.name]
    assert segment.misplaced(tmp_path) == [moved.name]
    (tmp_path / "w0-b1-000001.jsonl.zst").touch()
    assert list(map(str, segment.names(tmp_path))) == ["w0-b1-000001.jsonl.zst"]
    assert segment.misplaced(tmp_path) == [moved.name]


def test_what_is_ours_or_nobodys_is_not_misplaced(tmp_path: Path) -> None:
    """Segments in every state, torn ends, what is just being made; and files that have nothing to do with us."""
    ours = ["w0-b1-000001.jsonl", "w0-b1-000002.jsonl.open", "w0-b1-000003.jsonl.zst", "w0-b1-000003.jsonl.zst.tmp"]
    torn = ["w0-b1-000001.torn", "w0-b1-000001.2.torn", "w0-b1-000001.torn.tmp"]
    for name in [*ours, *torn, "lost+found", "README", ".nfs0001"]:
        (tmp_path / name).touch()
    assert segment.misplaced(tmp_path) == []
    for name in ("w0-b1-000001.jsonl.1.gz", "w0-b1-000001.jsonl~", "w0-b1-000001.bak"):
        (tmp_path / name).touch()
        assert segment.misplaced(tmp_path) == [name]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("sync", [True, False])
def test_a_closed_segment_has_its_name_on_disk(directory: int, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    """The footer, then the name: before the close returns both are on disk, where that was asked for."""
    opened = Segment.create(directory, Name(0, "b", 1, OPEN), b"header\n", sync=sync)
    path = Path(f"/proc/self/fd/{directory}").readlink()
    trace = Trace(monkeypatch)
    opened.close(b"footer\n", sync=sync)
    calls = ["write w0-b-000001.jsonl.open", "rename w0-b-000001.jsonl.open w0-b-000001.jsonl"]
    if sync:
        calls[1:1] = ["sync w0-b-000001.jsonl.open"]
        calls.append(f"sync {path.name}")
    assert trace.calls == calls
