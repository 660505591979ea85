"""CSV, and the columns that it shares with Parquet."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.exported import BODIES, exported, record_all, recorded

from extproc.export import flat
from extproc.export.flat import FIELDS, cell
from extproc.history.join import Exchange


def rows(data: bytes) -> list[dict[str, str]]:
    """A CSV as another reader has it."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    finally:
        csv.field_size_limit(limit)


def test_a_row_each(tmp_path: Path) -> None:
    """With the values of the exchange in columns of their own, and all of it as JSON in the last."""
    exchanges = record_all(tmp_path)
    found = rows(exported("csv", exchanges, bodies=False))
    assert [row["id"] for row in found] == [each["id"] for each in exchanges]
    first = found[0]
    assert (first["outcome"], first["status"], first["tokens_in"], first["tokens_out"]) == ("ok", "200", "9", "2")
    assert (first["model"], first["stream"], first["finish_reasons"]) == ("llama-3", "", '["stop"]')
    assert [json.loads(row["exchange"]) for row in found] == exchanges
    assert list(first) == [field.name for field in FIELDS]


def test_any_bytes_come_back(tmp_path: Path) -> None:
    """Text as it is, with every line end; what is none as base64, and a column that says so."""
    found = []
    for row in rows(exported("csv", recorded(tmp_path, list(BODIES.values())))):
        for direction in ("request", "response"):
            body, encoding = row[f"{direction}_body"], row[f"{direction}_body_encoding"]
            found.append(body.encode() if encoding == "text" else base64.b64decode(body))
    assert found == [body for each in BODIES.values() for body in (each, each)]


ODD: list[Any] = [None, True, 1, 1.5, 2**70, float("nan"), "x", "\ud800", ["a"], {"a": "\ud800"}]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_value_of_another_kind(value: Any, tmp_path: Path) -> None:
    """What a record should not have is missing in a column of numbers, and text in one of texts; nothing raises."""
    fields = {"model": value, "ttft_ms": value, "output_chars": value, "stream": value, "error": {"code": value}}
    exchange = Exchange({"id": value, "status": value, "llm": fields, "response_flags": [value]}, tmp_path, {})
    found = {field.name: cell(field, exchange) for field in FIELDS if field.name != "exchange"}
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value < 2**63
    assert found["status"] == found["output_chars"] == (value if is_whole else None)
    assert found["stream"] is (value if isinstance(value, bool) else None)
    assert found["ttft_ms"] == (value if value in (1, 1.5, 2**70) and not isinstance(value, bool) else None)
    for name in ("id", "model", "error_code"):
        assert found[name] is None if value is None else found[name].encode("utf-8")


def test_columns_have_names_of_their_own() -> None:
    """With bodies, too."""
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    assert {f"{each}_body" for each in flat.BODIES}.isdisjoint(names)
