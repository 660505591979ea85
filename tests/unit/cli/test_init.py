"""`extproc init`: the shipped files, written out, and nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import invoke

from extproc.envoy.config.files import shipped


def test_init_writes_the_shipped_files(tmp_path: Path) -> None:
    """DIR/envoy/ and DIR/extproc.yaml, byte for byte; each is printed."""
    target = tmp_path / "a" / "b"
    result = invoke("init", target)
    assert result.exit_code == 0
    assert (target / "extproc.yaml").read_bytes() == shipped("extproc.yaml").read_bytes()
    for name in ("envoy.yaml", "routes.yaml", "clusters.yaml"):
        assert (target / "envoy" / name).read_bytes() == (shipped("envoy") / name).read_bytes()
    printed = [Path(line) for line in result.output.splitlines()]
    assert sorted(printed) == sorted(path for path in target.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["envoy", "extproc.yaml"])
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    """One of the two is there: neither is written, exit 2, and the message names it."""
    (tmp_path / name).mkdir() if name == "envoy" else (tmp_path / name).write_text("mine")
    result = invoke("init", tmp_path)
    assert result.exit_code == 2
    assert (
        result.stderr == f"extproc: {tmp_path / name}: is there already, and nothing is overwritten; name another DIR\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_init_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "file").write_text("")
    result = invoke("init", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_what_init_writes_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in DIR reads the written settings without complaint."""
    assert invoke("init", tmp_path).exit_code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert invoke("log").exit_code == 0
