"""Envoy's account of a request, from a record and from a line of its JSON access log."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.exchanges import access

from extproc.core.records import Access
from extproc.reconcile import entries
from extproc.reconcile.entries import JSON_FORMAT, REQUIRED, Entry, Unreadable, of_record

LINE: dict[str, Any] = {
    "start_time": "2026-11-21T07:30:41.740Z",
    "duration": 498,
    "x_audit_id": "019aa3f2-0000-7000-8000-000000000001",
    "request_id": "r-1",
    "method": "POST",
    "path": "/v1/models",
    "response_code": 503,
    "response_flags": "UF,URX",
    "response_code_details": "via_upstream",
    "upstream_host": "10.0.0.7:8000",
    "upstream_cluster": "llm",
    "attempts": 2,
    "route_name": "default",
    "bypass": "upgrade",
    "failed_open": "1",
}
"""A line as the real Envoy writes it, with something everywhere."""

WHOLE = Entry(
    started_at="2026-11-21T07:30:41.740000Z",
    duration_ms=498.0,
    id="019aa3f2-0000-7000-8000-000000000001",
    request_id="r-1",
    method="POST",
    path="/v1/models",
    status=503,
    response_flags=("UF", "URX"),
    response_code_details="via_upstream",
    upstream="10.0.0.7:8000",
    cluster="llm",
    route="default",
    attempts=2,
    bypass="upgrade",
    failed_open=True,
)


def read(data: bytes) -> list[Entry | Unreadable]:
    """What a file of these bytes holds."""
    return list(entries.read(io.BytesIO(data), "access.json"))


def line(**changes: Any) -> bytes:
    """The line with other values."""
    return json.dumps(LINE | changes).encode() + b"\n"


def without_place(entry: Entry | Unreadable) -> dict[str, Any]:
    """All fields of an entry but the one that says where it stood."""
    assert isinstance(entry, Entry)
    return {name: getattr(entry, name) for name in Entry.__dataclass_fields__ if name != "place"}


def test_a_record_and_a_line_say_the_same() -> None:
    """Every field, whichever way it came."""
    record = {"started_at": WHOLE.started_at, "response_flags": ["UF", "URX"], "failed_open": True}
    same = "duration_ms id request_id method path status response_code_details upstream cluster route attempts bypass"
    assert of_record(access(record | {name: getattr(WHOLE, name) for name in same.split()})) == WHOLE
    (found,) = read(line())
    assert without_place(found) == without_place(WHOLE)
    assert isinstance(found, Entry)
    assert found.place == "access.json:1"


def test_an_old_record_without_the_newer_fields() -> None:
    """Those of an Envoy, or a recorder, that did not tell are None."""
    entry = of_record(Access(id=None, at="2026-11-21T07:30:41.740000Z"))
    assert entry == Entry(started_at="2026-11-21T07:30:41.740000Z")


def test_nothing_but_the_required_keys() -> None:
    """What Envoy has nothing to say of is None, as null, as a dash, as nothing or as 0."""
    for empty in (None, "-", ""):
        fields = dict.fromkeys(REQUIRED, empty) | {"start_time": "2026-11-21T07:30:41Z", "response_code": 0}
        (entry,) = read(json.dumps(fields).encode() + b"\n")
        assert without_place(entry) == without_place(Entry(started_at="2026-11-21T07:30:41.000000Z"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-11-21T07:30:41.740Z", "2026-11-21T07:30:41.740000Z"),
        ("2026-11-21T07:30:41.740123999Z", "2026-11-21T07:30:41.740123Z"),
        ("2026-11-21T09:30:41.5+02:00", "2026-11-21T07:30:41.500000Z"),
        ("yesterday", None),
        (1795246241, None),
        (None, None),
    ],
)
def test_times(written: Any, meant: str | None) -> None:
    """In whatever form of RFC 3339; what is none makes the line unreadable."""
    (found,) = read(line(start_time=written))
    assert (found.started_at if isinstance(found, Entry) else None) == meant


@pytest.mark.parametrize("key", REQUIRED)
def test_a_line_that_lacks_a_key(key: str) -> None:
    """The key and the place are named: the json_format is another one."""
    fields = {name: value for name, value in LINE.items() if name != key}
    (found,) = read(b"\n" + json.dumps(fields).encode() + b"\n")
    assert isinstance(found, Unreadable)
    assert found.place == "access.json:2"
    assert f"it lacks {key};" in found.what


@pytest.mark.parametrize(
    "damaged",
    [b"not JSON\n", b"[1, 2]\n", b'"text"\n', b"\xff\xfe{}\n", b'{"start_time": \n', b"[" * 100_000 + b"\n", b"\0\n"],
)
def test_lines_that_are_no_entries(damaged: bytes) -> None:
    """Each is one finding, never a traceback, and those around it are read."""
    first, second, third = read(line() + damaged + line())
    assert isinstance(second, Unreadable)
    assert second.place == "access.json:2"
    assert isinstance(first, Entry)
    assert isinstance(third, Entry)
    assert third.place == "access.json:3"


def test_every_value_of_a_wrong_type() -> None:
    """A number where a text should be and the other way round, or a list: read as far as they go."""
    for odd in (1e999, -5, True, ["a"], {"b": None}, "x" * 5000, "\u2028\x1b"):
        for key in JSON_FORMAT:
            if key != "start_time":
                data = json.dumps(LINE | {key: odd}).encode() + b"\n"
                (found,) = read(data.replace(b"Infinity", b"1e308"))
                assert isinstance(found, Entry)


def test_envoys_own_log_between_the_lines() -> None:
    """`run/envoy.log` has both."""
    own = b"[2026-11-21 07:30:41.740][17][warning][config] [source/server.cc:1] oh\n"
    assert [type(each) for each in read(own + line() + own)] == [Entry]


def test_a_file_that_is_being_written_cut_anywhere() -> None:
    """What is whole is read; half a line at the end is no finding."""
    data = line() + line()
    for cut in range(len(data) + 1):
        found = read(data[:cut])
        assert all(isinstance(each, Entry) for each in found)
        assert len(found) == (cut >= len(line()) - 1) + (cut >= len(data) - 1)


def test_a_line_without_an_end_in_sight() -> None:
    """It is one finding, and is not read into memory."""
    first, second = read(b"x" * 5_000_000 + b"\n" + line())
    assert isinstance(first, Unreadable)
    assert isinstance(second, Entry)
    assert second.place == "access.json:2"


# The shipped configuration -----------------------------------------------------------------------------------


def shipped_loggers(checkout: Path) -> Iterator[dict[str, Any]]:
    """The access log that stands in envoy.yaml as a comment, as Envoy would read it."""
    text = (checkout / "envoy" / "envoy.yaml").read_text()
    block = re.findall(r"(?m)^ +# (- name: envoy\.access_loggers\.stdout\n(?: +#   .*\n)+)", text)
    for each in block:
        yield from yaml.safe_load(re.sub(r"(?m)^ +# ", "", each))


def test_the_shipped_json_format_is_the_one_that_is_read(checkout: Path) -> None:
    """Uncommented, it is what `--help` says."""
    (logger,) = shipped_loggers(checkout)
    assert logger["typed_config"]["log_format"]["json_format"] == JSON_FORMAT
