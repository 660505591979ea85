"""One publisher for each directory that an Envoy reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.envoy.publish.claim import claimed
from extproc.errors import ConfigError, StackError


def test_a_second_publisher_is_refused(tmp_path: Path) -> None:
    """The message names the directory, the command and the process; afterwards the directory is free again."""
    with claimed(tmp_path / "live", "publish --watch"):
        wanted = rf"live: `extproc publish --watch` \(process {os.getpid()}\) publishes here"
        with pytest.raises(StackError, match=wanted), claimed(tmp_path / "live", "publish"):
            pass
    with claimed(tmp_path / "live", "publish"):
        pass


def test_a_publisher_that_was_killed_is_in_nobody_s_way(tmp_path: Path) -> None:
    """What it left behind is a file and no lock."""
    (tmp_path / ".publisher").write_text("1 up\n")
    with claimed(tmp_path, "publish"):
        assert (tmp_path / ".publisher").read_text() == f"{os.getpid()} publish\n"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"file.*cannot be written: Not a directory"),
        claimed(tmp_path / "file" / "live", "up"),
    ):
        pass
