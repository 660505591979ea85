"""Which directories are taken for a journal, and when a file system counts as full."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.journal.directory import DataDirectory, FreeSpace, make


def test_made_private(tmp_path: Path) -> None:
    """`segments` and `bodies` are 0700, whatever the umask."""
    old = os.umask(0)
    try:
        DataDirectory(tmp_path).close()
    finally:
        os.umask(old)
    for name in ("segments", "bodies"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
@pytest.mark.parametrize("name", ["", "segments", "bodies"])
def test_others_may_not_write(tmp_path: Path, name: str, mode: int) -> None:
    """A directory that a group or everybody can write to is refused, with the command that mends it."""
    data = tmp_path / "data"
    (data / name).mkdir(parents=True)
    data.chmod(0o700)
    (data / name).chmod(mode)
    with pytest.raises(JournalError, match=f"{data / name}.*others may write.*chmod go-w"):
        DataDirectory(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("name", ["", "segments", "bodies"])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    """Its owner could change what is in it, whatever its mode."""
    data = tmp_path / "data"
    (data / name).mkdir(parents=True, mode=0o700)
    data.chmod(0o700)
    os.chown(data / name, 64_123, -1)
    with pytest.raises(JournalError, match=f"{data / name}: belongs to another user.*64123"):
        DataDirectory(data)


@pytest.mark.parametrize("name", ["", "segments", "bodies"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    """A symbolic link in the place of a directory is refused, and nothing appears where it points."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if name:
        data.mkdir(mode=0o700)
    (data / name).symlink_to(elsewhere)
    with pytest.raises(JournalError, match="symbolic link"):
        DataDirectory(data)
    assert list(elsewhere.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """The data directory itself is not made here: a mistyped path must not start a second journal."""
    with pytest.raises(JournalError, match="missing: there is no such directory"):
        DataDirectory(tmp_path / "missing")


def test_made_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With those above it; each entry is synced where it was made, that of a directory that was there already too."""
    synced: list[Path] = []
    monkeypatch.setattr("extproc.journal.directory.sync", synced.append)
    make(tmp_path / "var" / "lib" / "data")
    assert sorted(synced) == [tmp_path, tmp_path / "var", tmp_path / "var" / "lib"]
    synced.clear()
    make(tmp_path / "var" / "lib" / "data")
    assert synced == [tmp_path / "var" / "lib"]


def test_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask; one that is there stays as it is."""
    old = os.umask(0)
    try:
        make(tmp_path / "data")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    (tmp_path / "data").chmod(0o750)
    make(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750


def test_free_space(tmp_path: Path) -> None:
    """Below its floor a file system counts as full, and the floor has a default that this machine meets."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert FreeSpace(fd, 0).shortage() is None
        shortage = FreeSpace(fd, 1 << 62).shortage()
        assert shortage is not None
        assert "fewer than the floor of 4611686018427387904" in shortage
    finally:
        os.close(fd)
