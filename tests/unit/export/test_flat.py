"""CSV, and the columns that it shares with Parquet."""

from __future__ import annotations

import base64
import csv
import io
import json
import sys
from pathlib import Path

import pytest
from support.exchanges import made
from support.exported import BODIES, exported, record_all, recorded

from extproc.export import flat
from extproc.export.flat import FIELDS, cell


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
    assert [row["id"] for row in found] == [each.id for each in exchanges]
    first = found[0]
    assert (first["outcome"], first["status"], first["tokens_in"], first["tokens_out"]) == ("ok", "200", "9", "2")
    assert (first["model"], first["stream"], first["finish_reasons"]) == ("llama-3", "", '["stop"]')
    assert [json.loads(row["exchange"]) for row in found] == [each.members() for each in exchanges]
    assert list(first) == [field.name for field in FIELDS]


def test_any_bytes_come_back(tmp_path: Path) -> None:
    """Text as it is, with every line end; what is none as base64, and a column that says so."""
    found = []
    for row in rows(exported("csv", recorded(tmp_path, list(BODIES.values())))):
        for direction in ("request", "response"):
            body, encoding = row[f"{direction}_body"], row[f"{direction}_body_encoding"]
            found.append(body.encode() if encoding == "text" else base64.b64decode(body))
    assert found == [body for each in BODIES.values() for body in (each, each)]


@pytest.mark.parametrize("value", [None, 1, 2**63, 2**70])
def test_numbers_that_have_no_room(value: int | None, tmp_path: Path) -> None:
    """Missing in a column of whole numbers of 64 bits."""
    llm = {"output_chars": value, "ttft_ms": None if value is None else float(value)}
    exchange = made({"id": "x", "status": value, "llm": llm}, {}, tmp_path)
    found = {field.name: cell(field, exchange) for field in FIELDS if field.name != "exchange"}
    assert found["status"] == found["output_chars"] == (value if value is not None and value < 2**63 else None)
    assert found["ttft_ms"] == value


@pytest.mark.parametrize(("code", "text"), [(None, None), (7, "7"), ("\ud800", "\\ud800"), ("x", "x")])
def test_texts_are_made_of_anything(code: str | int | None, text: str | None, tmp_path: Path) -> None:
    """And every encoding takes them."""
    exchange = made({"llm": {"error": {"code": code}}}, {}, tmp_path)
    found = {field.name: cell(field, exchange) for field in FIELDS if field.name != "exchange"}
    assert found["error_code"] == text


def test_columns_have_names_of_their_own() -> None:
    """With bodies, too."""
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names)
    assert {f"{each}_body" for each in flat.BODIES}.isdisjoint(names)
