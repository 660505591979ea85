"""The position survives, or is worth nothing; it is never half right."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.follow import checkpoint
from extproc.follow.checkpoint import Checkpoint
from extproc.history.position import RecordPosition

KEPT = Checkpoint({"w0-b": (3, 1234), "w1-b": (1, 0)}, [RecordPosition("w0-b", 2, 99)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a position in it."""
    checkpoint.save(tmp_path / "position.json", KEPT)
    return tmp_path / "position.json"


def test_what_is_kept_comes_back(path: Path) -> None:
    """To the byte, readable by its owner only, and without leaving anything beside it."""
    assert checkpoint.load(path) == KEPT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["position.json"]


def test_nothing_is_kept_yet(tmp_path: Path) -> None:
    """That is no damage."""
    assert checkpoint.load(tmp_path / "position.json") is None


def test_each_byte_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed byte anywhere makes it worth nothing, and that is said."""
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert checkpoint.load(path) is None, at
    assert "begins anew" in caplog.text


def test_cut_at_each_byte(path: Path) -> None:
    """As is one that was not written to its end."""
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert checkpoint.load(path) is None, length


def test_another_version(path: Path) -> None:
    """Is not guessed at."""
    checkpoint.save(path, Checkpoint({}, [], version=99))
    assert checkpoint.load(path) is None


def test_one_follower_at_a_time(tmp_path: Path) -> None:
    """A second one is refused, and told what runs one; after the first has gone it may."""
    with checkpoint.locked(tmp_path) as path:
        assert path == tmp_path / "follow" / "position.json"
        with pytest.raises(JournalError, match="another follower reads this directory"), checkpoint.locked(tmp_path):
            pass
    with checkpoint.locked(tmp_path):
        pass


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(JournalError, match="nowhere"), checkpoint.locked(tmp_path / "nowhere"):
        pass
