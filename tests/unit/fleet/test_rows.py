"""What ended in a segment, by its own lines, whatever state they are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.journals import START_NS, access, append, id_of, journal, request, response

from extproc.fleet import rows
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.rows import Ended
from extproc.fleet.ship import Shipper
from extproc.journal import lines

ALONE: dict[str, Any] = {"response_code_details": "route_not_found", "status": 404, "cluster": None, "upstream": None}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal with one closed segment of three exchanges and an entry alone."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    with journal(directory, clock=lambda: START_NS) as writer:
        for number in range(1, 4):
            append(writer, request(number), response(number))
        append(writer, access(1), access(None, request_id="r", **ALONE))
    return directory


def ended(directory: Path) -> Ended | None:
    """Of its only segment."""
    [series] = lines.series(directory)
    return rows.ended_in(directory, series.names[0])


def test_an_exchange_is_that_of_the_segment_with_its_end(data: Path) -> None:
    """A segment that has only its request has no part in it; of Envoy's entries only those alone count."""
    found = ended(data)
    assert found is not None
    assert found.ids == {id_of(1), id_of(2), id_of(3)}
    assert len(found.alone) == 1
    assert not found.alone & found.ids


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text.replace(b'"type":"response","id":"%b' % id_of(2).encode(), b'"typ'), {1, 3}),
        (lambda text: text.replace(id_of(2).encode(), b"\xff" * 36), {1, 3}),
        (lambda text: text.replace(b'"type":"response"', b'"type":"resp\xffnse"', 1), {2, 3}),
        (lambda text: text[: text.index(b'{"type":"response","id":"%b' % id_of(3).encode())], {1, 2}),
        (lambda text: text.replace(b"\n", b"\n\xff\xfe\n[]\n{}\n\n"), {1, 2, 3}),
    ],
    ids=["a name", "an id", "a type", "cut", "lines between"],
)
def test_damage_takes_what_it_hits_and_no_more(
    data: Path, tmp_path: Path, damage: Callable[[bytes], bytes], left: set[int]
) -> None:
    """The others are there, and the segment is shipped: lag must not grow for ever over a byte."""
    [path] = (data / "segments").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    found = ended(data)
    assert found is not None
    assert found.ids & {id_of(number) for number in range(1, 4)} == {id_of(number) for number in left}
    done = Shipper(data, Bucket.open(directory_url(tmp_path / "bucket"))).round()
    assert (done.errors, done.segments) == ([], 1)


@pytest.mark.parametrize("text", [b"", b"\n", b"garbage\n", b'{"type":"segment","at":"no time"}\n', b"\xff\n"])
def test_a_segment_without_a_head_is_left(data: Path, text: bytes) -> None:
    """Nothing says when it began, and so where it belongs."""
    [path] = (data / "segments").iterdir()
    path.write_bytes(text)
    assert ended(data) is None


def test_a_segment_that_is_gone_is_none(data: Path) -> None:
    """Retention may have been quicker."""
    [series] = lines.series(data)
    (data / "segments" / str(series.names[0])).unlink()
    assert rows.ended_in(data, series.names[0]) is None


def test_what_cannot_be_found_is_counted(data: Path) -> None:
    """By its terminal record it ended here, and no whole line says more."""
    found = ended(data)
    assert found is not None
    found.ids.add(id_of(9))
    given: list[str] = []
    assert rows.read(data, [found], lambda _, exchange: given.append(exchange.id)) == 1
    assert set(given) == found.ids - {id_of(9)} | found.alone
    assert len(given) == len(set(given))
