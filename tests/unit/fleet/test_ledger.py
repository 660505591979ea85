"""What has been shipped is known, and what cannot be read of that is shipped again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.fleet.ledger import Ledger
from extproc.journal import shipped

STEM, OTHER = "w0-b1-000001", "w0-b1-000002"
URL = "file:///bucket"


def mark(directory: Path, stem: str = STEM) -> Path:
    """The file that says that a segment is there."""
    return shipped.path_of(directory, stem)


def test_a_mark_outlives_who_has_set_it(tmp_path: Path) -> None:
    """For its bucket only; what was on its way is gone with it, of this segment and no other."""
    with Ledger.held(tmp_path, 0) as ledger:
        for stem in (STEM, OTHER):
            ledger.stage(f"{stem}.parquet", b"rows")
            ledger.stage(f"{stem}.2.pack", b"bodies")
        assert not ledger.is_shipped(STEM, URL)
        ledger.set_mark(STEM, {"to": URL, "objects": {"a": 1}})
        assert ledger.is_shipped(STEM, URL)
        assert (ledger.staged(f"{STEM}.parquet"), ledger.staged(f"{STEM}.2.pack")) == (None, None)
        assert (ledger.staged(f"{OTHER}.parquet"), ledger.staged(f"{OTHER}.2.pack")) == (b"rows", b"bodies")
    with Ledger.held(tmp_path, 0) as ledger:
        assert ledger.mark(STEM) == {"to": URL, "objects": {"a": 1}}
        assert [ledger.is_shipped(*each) for each in ((STEM, URL), (STEM, f"{URL}/x"), (OTHER, URL))] == [
            True, False, False
        ]  # fmt: skip
        assert ledger.marked() == [STEM]
        ledger.unstage()
        assert sorted(path.name for path in (tmp_path / "ship").iterdir()) == ["lock", f"{STEM}.json"]


UNREADABLE = [
    b"", b"{", b"null", b"[]", b'"file:///bucket"', b"{}", b'{"to": ["file:///bucket"]}', b"\xff", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, text: bytes) -> None:
    """Cut, of another version, or no JSON: the segment is shipped again, which changes nothing in the bucket."""
    with Ledger.held(tmp_path, 0) as ledger:
        mark(tmp_path).write_bytes(text)
        assert not ledger.is_shipped(STEM, URL)
        ledger.set_mark(STEM, {"to": URL})
        assert ledger.is_shipped(STEM, URL)
    assert json.loads(mark(tmp_path).read_bytes()) == {"to": URL}


def test_only_one_has_it(tmp_path: Path) -> None:
    """Another one is told so, and gets it afterwards."""
    with Ledger.held(tmp_path, 0), pytest.raises(JournalError, match="another process ships"), Ledger.held(tmp_path, 0):
        pass
    with Ledger.held(tmp_path, 0):
        pass


def test_what_is_there_of_segments_that_are_gone_goes(tmp_path: Path) -> None:
    """Marks, what was on its way, and what a killed process has left; the lock stays."""
    with Ledger.held(tmp_path, 0) as ledger:
        for stem in (STEM, OTHER):
            ledger.set_mark(stem, {"to": URL})
            ledger.stage(f"{stem}.pack", b"bodies")
        (tmp_path / "ship" / f"{OTHER}.pack.tmp").write_bytes(b"half")
        assert ledger.is_shipped(OTHER, URL)
        ledger.forget({STEM})
        assert not ledger.is_shipped(OTHER, URL)
        assert sorted(path.name for path in (tmp_path / "ship").iterdir()) == [
            "lock", f"{STEM}.json", f"{STEM}.pack"
        ]  # fmt: skip


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    """A file in its place, or no data directory at all."""
    (tmp_path / "ship").write_bytes(b"")
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(JournalError, match=f"^{directory}/ship: "), Ledger.held(directory, 0):
            pass
