"""The one look-up of a held request: which entry names it, and what is to happen to it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from extproc.core.head import Head, read
from extproc.core.redact import Redactor
from extproc.core.times import moment_text
from extproc.quarantine import entries
from extproc.quarantine.entries import Entry, Mode, Quarantine
from extproc.quarantine.guard import Guard

NOW = datetime.now(UTC)
TEXT = ("response_format.type", '"text"')
REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "a"}],
    "response_format": {"type": "text"},
}


def head() -> Head:
    """A chat request's headers."""
    fields = [(":method", b"POST"), (":path", b"/v1/chat/completions"), ("content-type", b"application/json")]
    return read(fields, Redactor(b"k"))


def entry(**fields: Any) -> Entry:
    """One of the text format, unless something else is said."""
    return Entry(**({"id": "q-1", "created_at": moment_text(NOW), "atom": TEXT} | fields))


def guard(directory: Path, *all_of: Entry, mode: Mode | None = None) -> Guard:
    """A worker's view of these."""
    entries.save(directory, Quarantine(mode=mode, entries=all_of))
    made = Guard(directory, Mode.SHADOW)
    made.refresh()
    return made


def asked(request: dict[str, Any]) -> bytes:
    """Its body."""
    return json.dumps(request).encode()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, True),
        ({"models": ("m", "other")}, True),
        ({"models": ("llama*",)}, False),
        ({"upstreams": ("ll*",)}, True),
        ({"upstreams": ("gpu",)}, False),
        ({"atom": ("response_format.type", '"json_object"')}, False),
        ({"expires_at": moment_text(NOW - timedelta(seconds=1))}, False),
        ({"expires_at": moment_text(NOW + timedelta(hours=1))}, True),
        ({"mode": Mode.OFF}, False),
    ],
)
def test_an_entry_names_requests_by_an_atom_within_its_limits(
    tmp_path: Path, fields: dict[str, Any], found: bool
) -> None:
    """Of its models and clusters only, until its end."""
    match = guard(tmp_path, entry(**fields)).look_up(head(), asked(REQUEST), "llm")
    assert (match is not None) is found


def test_an_entry_names_requests_by_their_fingerprint(tmp_path: Path) -> None:
    """Whatever their texts and values are; other parameters are another shape."""
    first = guard(tmp_path, entry())
    fingerprint = first.fingerprint(head(), asked(REQUEST))
    made = guard(tmp_path, entry(atom=None, fingerprint=fingerprint))
    same = {**REQUEST, "messages": [{"role": "user", "content": "other words"}]}
    assert made.look_up(head(), asked(same), None) is not None
    assert made.look_up(head(), asked({**REQUEST, "top_k": -1}), None) is None


def test_an_entry_names_one_request_by_its_body(tmp_path: Path) -> None:
    """To the byte: nothing that is merely alike."""
    body = asked(REQUEST)
    made = guard(tmp_path, entry(atom=None, body=hashlib.sha256(body).hexdigest(), mode=Mode.REFUSE))
    match = made.look_up(head(), body, None)
    assert match is not None
    assert match.mode is Mode.REFUSE
    assert made.look_up(head(), body + b" ", None) is None


@pytest.mark.parametrize(
    ("own", "of_all", "mode"),
    [
        (None, None, Mode.SHADOW),
        (None, Mode.REFUSE, Mode.REFUSE),
        (Mode.ROUTE, Mode.REFUSE, Mode.ROUTE),
        (Mode.REFUSE, None, Mode.REFUSE),
    ],
)
def test_the_mode_is_its_own_else_that_of_all_else_the_settings(
    tmp_path: Path, own: Mode | None, of_all: Mode | None, mode: Mode
) -> None:
    """And each is counted by it."""
    made = guard(tmp_path, entry(mode=own), mode=of_all)
    match = made.look_up(head(), asked(REQUEST), None)
    assert match is not None
    assert match.mode is mode
    assert made.counts == {mode.value: 1}


def test_without_entries_there_is_nothing_to_look_up(tmp_path: Path) -> None:
    """No file, an empty one, and one whose entries have ended."""
    made = Guard(tmp_path, Mode.REFUSE)
    made.refresh()
    assert not made.active
    assert not guard(tmp_path).active
    assert not guard(tmp_path, entry(expires_at=moment_text(NOW - timedelta(days=1)))).active


def test_a_change_of_the_file_is_taken_at_the_next_look(tmp_path: Path) -> None:
    """One that is none changes nothing."""
    made = guard(tmp_path, entry())
    assert made.active
    (tmp_path / entries.FILE_NAME).write_text("{")
    made.refresh()
    assert made.active
    entries.save(tmp_path, Quarantine())
    made.refresh()
    assert not made.active


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"response_format":{"type', b'{"response_format":1}'])
def test_bodies_that_are_none_pass(tmp_path: Path, body: bytes) -> None:
    """Nothing raises."""
    assert guard(tmp_path, entry()).look_up(head(), body, None) is None
