"""Parquet, read back by the library that everybody reads it with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.exported import BODIES, exported, record_all, recorded

from extproc.export import parquet
from extproc.export.flat import FIELDS
from extproc.history.join import Exchange

pyarrow = pytest.importorskip("pyarrow", reason="it is in the lock of development")


def table(data: bytes) -> list[dict[str, object]]:
    """The rows of a file."""
    from pyarrow.parquet import read_table  # noqa: PLC0415 - where there is one

    rows: list[dict[str, object]] = read_table(io.BytesIO(data)).to_pylist()
    return rows


def test_a_row_each(tmp_path: Path) -> None:
    """Numbers, times and truths are of their types; what is not known is null."""
    exchanges = record_all(tmp_path)
    found = table(exported("parquet", exchanges, bodies=False))
    assert [json.loads(str(row["exchange"])) for row in found] == [each.members() for each in exchanges]
    first, *_, unfinished = found
    assert str(first["started_at"]) == "2025-11-21 03:12:00+00:00"
    assert (first["status"], first["tokens_in"], first["stream"], first["duration_ms"]) == (200, 9, None, 150.0)
    assert (unfinished["status"], unfinished["response_bytes"], unfinished["outcome"]) == (None, None, None)
    assert list(first) == [field.name for field in FIELDS]


def test_any_bytes_come_back(tmp_path: Path) -> None:
    """Bodies are bytes."""
    found = table(exported("parquet", recorded(tmp_path, list(BODIES.values()))))
    assert [(row["request_body"], row["response_body"]) for row in found] == [(each, each) for each in BODIES.values()]


def test_no_exchange_at_all() -> None:
    """A file with its columns and no row."""
    none: list[Exchange] = []
    assert table(exported("parquet", none)) == []


def test_what_is_in_memory_is_bounded(tmp_path: Path) -> None:
    """A row group ends with its rows, or its bytes."""
    rows = [{"a": b"x" * 1_000_000}] * 100
    assert max(len(group) for group in parquet._groups(rows)) <= 34
    assert [len(group) for group in parquet._groups([{"a": 1}] * (parquet.ROWS + 1))] == [parquet.ROWS, 1]


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    """One line with the command, and exit 1; no file is left."""
    record_all(tmp_path / "data")
    script = "import sys; sys.modules['pyarrow'] = None; from extproc.cli.main import main; main()"
    arguments = ("export", "--format", "parquet", "-O", "x.parquet", "--data-dir", "data")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'extproc[parquet]'" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
