"""The records as types."""

from __future__ import annotations

import itertools
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import record, records
from extproc.core.records import Access, Body, JournalObject, Open, Orphan, Request, RequestDirection, Response, Unknown
from extproc.journal import lines

REAL = Path(__file__).parents[2] / "forensics" / "real"
JOURNALS = sorted(path for path in REAL.iterdir() if (path / "segments").is_dir())


def line(fields: Mapping[str, Any]) -> bytes:
    """As the journal has it."""
    return record.seal(record.encode(fields), 1, "b00f", 7)


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.name)
def test_a_journal_of_an_earlier_version_has_nothing_unknown(journal: Path) -> None:
    """Every member has its place in a type, with the same value, and is written again as it was."""
    for series in lines.series(journal):
        for name in series.names:
            with lines.open_segment(journal, name) as file:
                for raw in itertools.islice(file, 0, 200):
                    read = records.unseal(raw)
                    assert not isinstance(read, Unknown)
                    assert b'"":' not in msgspec.json.encode(read)
                    _is_within(json.loads(raw), json.loads(records.encode(read)))
                    if read.type == "end":
                        break


def _is_within(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name, value in old.items():
        if isinstance(value, dict):
            _is_within(value, new[name])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for before, after in zip(value, new[name], strict=True):
                _is_within(before, after)
        else:
            assert new[name] == value


NEWER: list[dict[str, Any]] = [
    {"type": "request", "id": "a", "at": "t", "new": {"deep": [1]}, "request": {"bytes": 3, "more": 1}},
    {"type": "request", "id": "a", "request": {"body": {"zip": "x"}, "headers": [["a", "b"]]}},
    {"type": "open", "id": "a", "request": "another type"},
    {"type": "access", "id": None, "failed_attempts": [{"status": 503, "new": 1}], "status": "503"},
    {"type": "orphan", "id": "a", "progress": {"tokens": 5}, "had": 5},
    {"type": "gap", "from": "a", "to": "b", "count": 3, "who": "?"},
    {"type": "segment", "in_flight": [], "version": 2},
]


@pytest.mark.parametrize("fields", NEWER, ids=str)
def test_what_a_newer_version_added_is_kept(fields: dict[str, Any]) -> None:
    """Members at whatever depth, and members of another type than ours, are read, and written again as they were."""
    read = records.unseal(line(fields))
    assert not isinstance(read, Unknown)
    assert (read.type, read.seq) == (fields["type"], 7)
    written = json.loads(records.encode(read))
    _is_within(fields, written)
    assert records.of_fields(written) == read


def test_what_is_kept_stands_where_it_was() -> None:
    """Beside the members that its object has."""
    read = records.unseal(line(NEWER[0]))
    assert isinstance(read, Request)
    assert read.request is not None
    assert read.unknown == {"new": {"deep": [1]}}
    assert (read.request.bytes, read.request.unknown) == (3, {"more": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "audit", "id": "a", "at": "2026-01-01T00:00:00.000000Z", "new": 1},
        {"type": 5, "id": "a", "at": 6},
        {"type": "request", "at": "no id"},
        {"type": "response", "id": None},
        {"no": "type"},
    ],
    ids=repr,
)
def test_a_line_of_an_unknown_type_is_kept_whole(fields: dict[str, Any]) -> None:
    """So is one that lacks the id which its type needs. Its place in the journal is known all the same."""
    read = records.unseal(line(fields))
    assert isinstance(read, Unknown)
    assert (read.worker, read.boot_id, read.seq) == (1, "b00f", 7)
    _is_within(fields, json.loads(records.encode(read)))


@pytest.mark.parametrize(
    "value",
    ["\ud800", "käse\u2028", 10**30, 10**5000, float("nan"), [[[]]], None, True],
    ids=["surrogate", "text", "long", "very_long", "nan", "nested", "null", "true"],
)
def test_any_value_that_a_client_chose_is_read(value: object) -> None:
    """Lone surrogates and numbers of many digits take the slow way, with the same result."""
    fields = {"type": "request", "id": "a", "path": "\ud800/x", "llm": {"params": {"x": value}}}
    read = records.unseal(line(fields))
    assert isinstance(read, Request)
    assert read.path == "\ud800/x"
    assert read.llm is not None
    assert read.llm.params == json.loads(record.encode(fields))["llm"]["params"]
    assert records.encode(read).isascii()
    assert records.of_fields(json.loads(records.encode(read))) == read


def test_what_a_record_has_of_the_journal_is_not_written_before() -> None:
    """Worker, boot, number and checksum are added when the record is sealed."""
    made = Response(id="a", at="t")
    assert not {"worker", "boot_id", "seq", "crc"} & json.loads(records.encode(made)).keys()
    read = records.unseal(record.seal(records.encode(made), 2, "b", 9))
    assert isinstance(read, Response)
    assert (read.worker, read.boot_id, read.seq, len(read.crc)) == (2, "b", 9, 8)


@pytest.mark.parametrize("kind", records.TYPES.values(), ids=records.TYPES.keys())
def test_a_record_begins_with_its_type_and_id(kind: type[records.Known]) -> None:
    """Readers tell lines apart by their first bytes."""
    has_id = "id" in kind.__struct_fields__
    members: dict[str, Any] = {"id": "x"} if has_id else {}
    made = kind(**members)
    start = b'{"type":"%b",' % kind.type.encode() + (b'"id":"x",' if has_id else b"")
    assert records.encode(made).startswith(start)
    assert records.unseal(record.seal(records.encode(made), 0, "b", 1)) is not None


def test_a_damaged_line_is_no_record() -> None:
    """The checksum is looked at first."""
    with pytest.raises(record.DamagedLine):
        records.unseal(line({"type": "open", "id": "a"}).replace(b"open", b"opem"))


def _parts(kind: Any) -> typing.Iterator[type[JournalObject]]:
    if isinstance(kind, type) and issubclass(kind, JournalObject):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from _parts(field.type)
    for inner in typing.get_args(kind):
        yield from _parts(inner)


@pytest.mark.parametrize("kind", sorted({*_parts(records.Known)}, key=str), ids=lambda kind: kind.__name__)
def test_an_unknown_member_of_any_part_is_kept(kind: type[JournalObject]) -> None:
    """No object of the journal loses what it is not prepared for."""
    needed = {field.encode_name: "x" for field in msgspec.structs.fields(kind) if field.required}
    tag = {"type": kind.__struct_config__.tag} if kind.__struct_config__.tag else {}
    read = records.of_fields({**tag, **needed, "new": 1}) if tag else records.kept(kind, {**needed, "new": 1})
    assert read.unknown == {"new": 1}
    assert json.loads(records.encode(read))["new"] == 1


def test_types_are_told_apart() -> None:
    """What is common to several is asked of them alike."""
    both = [Open(id="a", request=RequestDirection(bytes=1)), Orphan(id="a"), Access(id=None)]
    assert [each.type for each in both] == ["open", "orphan", "access"]


@given(st.binary())
def test_a_body_is_exact_as_text_or_base64(data: bytes) -> None:
    """Text where it is UTF-8, base64 where it is not."""
    body = Body.of(data)
    assert (body.text.encode() if body.text is not None else msgspec.convert(body.base64, bytes)) == data
    assert records.encode(body).count(b":") == 1 + (body.text or "").count(":")


@pytest.mark.parametrize("byte", [b"a", b"\x00", b"\xff", "\u20ac".encode()])
@pytest.mark.parametrize("length", [1024, 3_000_000, 17_000_000])
def test_a_body_that_fits_makes_no_record_too_long(byte: bytes, length: int) -> None:
    """However much longer its bytes become where they stand: escaped, or as base64."""
    body = byte * (length // len(byte))
    written = len(records.encode(Body.of(body)))
    assert records.fits(body) == (written <= record.LONGEST // 2)
