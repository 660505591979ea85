"""Long JSON without its content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.skim import MAX_BYTES, MAX_STRING, SHORTENED, Skimmer


def skim(*pieces: bytes) -> bytes:
    """What is kept of a text."""
    skimmer = Skimmer()
    for piece in pieces:
        skimmer.feed(piece)
    return skimmer.result


LONG = "y" * 5000
CASES: list[tuple[Any, Any]] = [
    ({"a": LONG, "b": 1}, {"a": "y" * MAX_STRING + SHORTENED, "b": 1}),
    ({"a": "é" * 5000}, {"a": "é" * (MAX_STRING // 2) + SHORTENED}),
    ({"a": {"b": {"c": [0] * 30_000, "d": "x"}}, "e": None}, {"a": {"b": {"c": [], "d": "x"}}, "e": None}),
    ({"a": [{"b": {"c": {"d": [[1, 2]] * 2000}, "e": 5}}]}, {"a": [{"b": {"c": {"d": []}, "e": 5}}]}),
    ({"usage": {"n": 1}, "x": [LONG] * 10, "error": {"message": "m"}}, None),
    ([LONG, {"a": '"]}\\'}], ["y" * MAX_STRING + SHORTENED, {"a": '"]}\\'}]),
]


@pytest.mark.parametrize(("value", "kept"), CASES)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_small_members_are_kept(value: Any, kept: Any, is_ascii: bool) -> None:
    """Long strings are shortened, long lists deep inside are empty, and all else is there; cut anywhere."""
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    found = skim(body)
    assert all(skim(body[:at], body[at:]) == found for at in range(0, len(body), 97))
    assert skim(*[body[at : at + 1] for at in range(len(body))]) == found
    whole = json.loads(found)
    if kept is None:
        assert (whole["usage"], whole["error"]) == ({"n": 1}, {"message": "m"})
    elif not is_ascii:
        assert whole == kept
    else:
        assert str(whole).count(SHORTENED) == str(kept).count(SHORTENED)


@pytest.mark.parametrize("escape", ["\\n", "\\u00e9", "\\ud83d\\ude00", "\\\\", '\\"'])
def test_no_escape_is_cut(escape: str) -> None:
    """A string shortened within an escape ends before it."""
    for before in range(12):
        body = b'{"a":"' + b"z" * before + escape.encode() * 600 + b'","b":1}'
        assert json.loads(skim(body))["b"] == 1


def test_what_is_short_is_as_it_was() -> None:
    """Nothing is left out without need."""
    body = b'{"a": ["b", {"c": "\\u00e9"}], "d": 1e5}'
    assert skim(body) == body


@given(
    st.lists(st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"x" * 600, b"0", b"\xff", b"\\u00"])),
    st.data(),
)
def test_any_bytes_in_any_pieces(tokens: list[bytes], data: st.DataObject) -> None:
    """Nothing raises, and what is kept does not depend on the cutting."""
    body = b"".join(tokens)
    at = data.draw(st.integers(0, len(body)))
    assert skim(body[:at], body[at:]) == skim(body)


@pytest.mark.parametrize("piece", [b"[", b"{", b'"', b"x", b'"a",', b"]", b"[0]", b'{"a":1},', b"\\", b"{}"])
def test_memory_is_bounded(piece: bytes) -> None:
    """However long the text is, the result is not."""
    skimmer = Skimmer()
    for _ in range(100):
        skimmer.feed(piece * 20_000)
    assert len(skimmer.result) <= MAX_BYTES + MAX_STRING
