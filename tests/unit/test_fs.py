"""How files are written and put into place: whole, private, never through a link."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from extproc import fs


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the system takes at a time."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    fd = os.open(tmp_path / "file", fs.NEW, 0o600)
    fs.write_all(fd, b"0123456789")
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("left_behind", [True, False])
def test_a_file_is_replaced(tmp_path: Path, left_behind: bool) -> None:
    """It is private, and what an earlier attempt left behind is in nobody's way."""
    (tmp_path / "file").write_bytes(b"before")
    if left_behind:
        (tmp_path / f"file{fs.TEMPORARY}").write_bytes(b"half")
    with fs.directory(tmp_path) as directory:
        fs.put(directory, "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"after"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """Whatever goes wrong while its content is made."""

    def fail(_: object) -> None:
        raise OSError("no")

    (tmp_path / "file").write_bytes(b"before")
    with fs.directory(tmp_path) as directory, pytest.raises(OSError, match="no"):
        fs.put(directory, "file", fail)
    assert (tmp_path / "file").read_bytes() == b"before"


def test_a_file_that_is_made_once(tmp_path: Path) -> None:
    """Private, whole, the first one for all who ask at once, and no draft is left."""
    contents = iter(range(16))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fs.once(tmp_path / "file", lambda: b"%d" % next(contents))))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {(tmp_path / "file").read_bytes()}
    assert len(found) == 16
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flags", [fs.READ, fs.APPEND, fs.READ_APPEND, fs.LOCK, fs.NEW])
def test_nothing_is_opened_through_a_link(tmp_path: Path, flags: int) -> None:
    """Nobody who can make a link moves a file of ours."""
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"symbolic links|File exists"):
        os.open(tmp_path / "link", flags, 0o600)


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    """A second one is refused for as long as the first is open, and everyone can see that."""
    first, second = (os.open(tmp_path / "lock", fs.LOCK, 0o600) for _ in range(2))
    assert not fs.is_locked(second)
    os.close(second)
    second = os.open(tmp_path / "lock", fs.LOCK, 0o600)
    assert fs.lock(first)
    assert not fs.lock(second)
    assert fs.is_locked(second)
    os.close(first)
    assert fs.lock(second)
    os.close(second)
