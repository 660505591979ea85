"""Regular expressions in bodies."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.recorded import Recording

from extproc.errors import ConfigError
from extproc.history import reader
from extproc.history.grep import Grep


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ("temperature", [0]),
        ("Hello .here", [0, 2]),
        ("grün", [1]),
        ("x{1000}y", [1]),
        ("compressed", [2]),
        ("(?i)HELLO", [0, 2]),
    ],
)
def test_in_the_request_or_the_answer(tmp_path: Path, expression: str, numbers: list[int]) -> None:
    """In the record or in a file of its own, compressed or not."""
    packed = gzip.compress(b"it was compressed")
    with Recording(tmp_path) as recording:
        ids = [
            recording.add(),
            recording.add("grün".encode() + b"x" * 2000 + b"y", b"short"),
            recording.add(packed, headers=[("content-encoding", "gzip")]),
        ]
    grep = Grep(expression)
    found = [each.id for each in reader.exchanges([tmp_path]) if grep.finds(each)]
    assert found == [ids[number] for number in numbers]


def test_a_body_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """One exchange less, and no end of the search."""
    with Recording(tmp_path) as recording:
        recording.add(b"x" * 2000)
        second = recording.add(b"x" * 2000)
    min((tmp_path / "bodies").iterdir()).unlink()
    found = [each.id for each in reader.exchanges([tmp_path]) if Grep("xx").finds(each)]
    assert len(found) == 1
    assert second


def test_its_time_is_linear(tmp_path: Path) -> None:
    """An expression that takes others a lifetime: it comes back at all."""
    with Recording(tmp_path, inline_body_bytes=100_000) as recording:
        recording.add(b"a" * 50_000)
    (exchange,) = reader.exchanges([tmp_path])
    assert not Grep("(a*)*#").finds(exchange)


@pytest.mark.parametrize("expression", ["(", "a{2,1}", "(?=a)", "\\1"])
def test_what_is_none_is_refused(expression: str) -> None:
    """With the expression, and with what is wrong."""
    with pytest.raises(ConfigError) as caught:
        Grep(expression)
    assert repr(expression) in str(caught.value)
