"""What a machine is called in a bucket."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from extproc.errors import JournalError
from extproc.fleet import host


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    """The name is made once, whoever is first."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(host.name_of(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert re.fullmatch(r"[0-9A-Za-z-]+-[0-9a-f]{8}", found[0])
    assert [path.name for path in tmp_path.iterdir()] == ["host"]


@pytest.mark.parametrize("text", ["", "../up", "a b", "x" * 120])
def test_a_name_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """It would be part of an object's name."""
    (tmp_path / "host").write_text(text)
    with pytest.raises(JournalError):
        host.name_of(tmp_path)
