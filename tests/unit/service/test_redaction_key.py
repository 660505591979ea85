"""The key of the redaction marks."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.service import redaction_key


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first start makes it, for its owner alone; later ones read it."""
    key = redaction_key.load(tmp_path)
    assert len(key) == 32
    assert redaction_key.load(tmp_path) == key
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == key


def test_each_directory_has_its_own(tmp_path: Path) -> None:
    """Marks of two journals cannot be compared."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert redaction_key.load(one) != redaction_key.load(two)


def test_several_may_want_it_at_once(tmp_path: Path) -> None:
    """All get the same one, and no draft is left."""
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(redaction_key.load(tmp_path))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 16
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [redaction_key.NAME]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_an_error(tmp_path: Path, content: bytes) -> None:
    """A new one is not made silently: marks would no longer agree with those on disk."""
    (tmp_path / redaction_key.NAME).write_bytes(content)
    with pytest.raises(JournalError, match=f"has {len(content)} bytes, not 32"):
        redaction_key.load(tmp_path)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """The key is in the directory or nowhere."""
    (tmp_path / "elsewhere").write_bytes(b"k" * 32)
    (tmp_path / redaction_key.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match=redaction_key.NAME):
        redaction_key.load(tmp_path)


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(JournalError, match=r"none/redaction\.key"):
        redaction_key.load(tmp_path / "none")
