"""A list of what was erased is worth what its signature is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extproc.errors import JournalError
from extproc.fleet import signed

FIELDS = {"version": 1, "at": "2026-11-20T03:00:00Z", "ids": ["a", "é", "\ud800"], "rows": 2, "share": 0.1}

Change = Callable[[dict[str, Any]], object]


def changed(directory: Path, change: Change) -> bytes:
    """A list that somebody has changed."""
    fields = json.loads(signed.sign(FIELDS, directory))
    change(fields)
    return json.dumps(fields).encode()


def test_a_list_is_whole_however_it_is_written(tmp_path: Path) -> None:
    """By the key in it or by one that is known; another order of names and other spaces are the same list."""
    text = signed.sign(FIELDS, tmp_path)
    fields = json.loads(text)
    assert signed.check(text)
    assert signed.check(text, fields["public_key"])
    assert signed.check(json.dumps(dict(reversed(fields.items()))).encode())
    assert {name: fields[name] for name in FIELDS} == FIELDS


def test_the_key_is_made_once_for_a_directory(tmp_path: Path) -> None:
    """Readable for its owner alone; a list of another directory has another key."""
    keys = {json.loads(signed.sign({"n": number}, tmp_path))["public_key"] for number in range(2)}
    other = tmp_path / "other"
    other.mkdir()
    assert len(keys) == 1
    assert not signed.check(signed.sign(FIELDS, other), keys.pop())
    assert (tmp_path / signed.KEY_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(rows=3),
        lambda fields: fields.update(more=1),
        lambda fields: fields.pop("at"),
        lambda fields: fields["ids"].pop(),
        lambda fields: fields.pop("signature"),
        lambda fields: fields.pop("public_key"),
        lambda fields: fields.update(signature=None),
        lambda fields: fields.update(signature=""),
        lambda fields: fields.update(signature="é"),
        lambda fields: fields.update(signature=fields["signature"][:-4]),
        lambda fields: fields.update(public_key=1),
        lambda fields: fields.update(public_key="AAAA"),
        lambda fields: fields.update(public_key="A" * 43 + "="),
    ],
    ids=range(13),
)
def test_a_change_breaks_it(tmp_path: Path, change: Change) -> None:
    """Wherever it is: in what was signed, in the signature, in the key."""
    assert not signed.check(changed(tmp_path, change))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"1", b'"signature"', b"[]", b'["signature"]', b"{}", b"\xff\xfe", b"[" * 100_000],
    ids=range(10),
)
def test_what_is_no_list_is_not_one_that_was_signed(text: bytes) -> None:
    """And no error."""
    assert not signed.check(text)


@pytest.mark.parametrize("key", [b"", b"short", b"k" * 33])
def test_a_damaged_key_signs_nothing(tmp_path: Path, key: bytes) -> None:
    """It is named, and not replaced: lists that it has signed are still there."""
    path = tmp_path / signed.KEY_NAME
    path.write_bytes(key)
    with pytest.raises(JournalError, match=f"has {len(key)} bytes, not 32"):
        signed.sign(FIELDS, tmp_path)
    assert path.read_bytes() == key


def test_where_no_key_can_be_it_is_said(tmp_path: Path) -> None:
    """With the path."""
    (tmp_path / signed.KEY_NAME).mkdir()
    with pytest.raises(JournalError, match=r"erasure\.key: Is a directory"):
        signed.sign(FIELDS, tmp_path)
