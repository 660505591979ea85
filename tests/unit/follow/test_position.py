"""The position survives, or is worth nothing; it is never half right."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.follow import position
from extproc.follow.position import Position

KEPT = Position({"w0-b": (3, 1234), "w1-b": (1, 0)}, [("w0-b", 2, 99)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a position in it."""
    position.save(tmp_path / "position.json", KEPT)
    return tmp_path / "position.json"


def test_what_is_kept_comes_back(path: Path) -> None:
    """To the byte, readable by its owner only, and without leaving anything beside it."""
    assert position.load(path) == KEPT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["position.json"]


def test_nothing_is_kept_yet(tmp_path: Path) -> None:
    """That is no damage."""
    assert position.load(tmp_path / "position.json") is None


def test_each_byte_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed byte anywhere makes it worth nothing, and that is said."""
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert position.load(path) is None, at
    assert "begins anew" in caplog.text


def test_cut_at_each_byte(path: Path) -> None:
    """As is one that was not written to its end."""
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert position.load(path) is None, length


def test_another_version(path: Path) -> None:
    """Is not guessed at."""
    position.save(path, Position({}, [], version=99))
    assert position.load(path) is None


def test_one_follower_at_a_time(tmp_path: Path) -> None:
    """A second one is refused, and told what runs one; after the first has gone it may."""
    with position.locked(tmp_path) as path:
        assert path == tmp_path / "follow" / "position.json"
        with pytest.raises(JournalError, match="another follower reads this directory"), position.locked(tmp_path):
            pass
    with position.locked(tmp_path):
        pass


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(JournalError, match="nowhere"), position.locked(tmp_path / "nowhere"):
        pass
