"""What was tried, kept in a file."""

from __future__ import annotations

from pathlib import Path

from extproc.replay.search import Attempt, How, Result
from extproc.replay.tries import Tries

RESULT = Result(True, (Attempt(("a", "b"), How.AS_RECORDED),), 2)


def test_a_try_is_remembered_by_the_next_run(tmp_path: Path) -> None:
    """With all that the search wants to know of it, and counted as if it were made."""
    first = Tries(tmp_path / "tries")
    first.made(first.key([b"a"]), RESULT, "died", restarted=True)
    second = Tries(tmp_path / "tries")
    assert second.known(second.key([b"a"])) == (RESULT, "died")
    assert (second.count, second.kills, second.restarts, second.remembered) == (1, 1, 1, 1)


def test_the_same_again_is_another_try(tmp_path: Path) -> None:
    """What kills but now and then is tried several times."""
    tries = Tries(tmp_path / "tries")
    assert tries.key([b"a"]) != tries.key([b"a"])
    assert tries.key([b"a", b"b"])[:-2] != tries.key([b"ab"])[:-2]


def test_a_line_cut_anywhere_is_as_good_as_none(tmp_path: Path) -> None:
    """And the lines before it stay."""
    path = tmp_path / "tries"
    first = Tries(path)
    for part in (b"a", b"b"):
        first.made(first.key([part]), RESULT, "died")
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) - 1):
        path.write_bytes(whole[:end])
        again = Tries(path)
        assert again.known(again.key([b"a"])) is not None
        assert again.known(again.key([b"b"])) is None


def test_without_a_file_nothing_is_kept() -> None:
    """It counts all the same."""
    tries = Tries(None)
    tries.made(tries.key([b"a"]), RESULT, "died")
    assert tries.count == 1
