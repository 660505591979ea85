"""A person's records leave a segment, and nothing else in it moves."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from support.journals import access, id_of, request, response

from extproc.core.record import encode, seal, unseal
from extproc.fleet import tombstone
from extproc.fleet.tombstone import Wanted
from extproc.journal import frames

HERS, OTHERS = id_of(1), id_of(2)
SECRET = b"hers alone"
NO_ROUTE: dict[str, Any] = {
    "response_code_details": "route_not_found",
    "status": 404,
    "cluster": None,
    "upstream": None,
}


def lines(*records: bytes) -> list[bytes]:
    """As they stand in a segment."""
    return [seal(record, 3, "b1", number) for number, record in enumerate(records, 7)]


def without(given: Sequence[bytes], wanted: Wanted) -> tuple[list[bytes], tombstone.Erased]:
    """What is left, line by line."""
    data, erased = tombstone.without(io.BytesIO(b"".join(given)), wanted)
    return data.splitlines(keepends=True), erased


def test_each_record_of_hers_gives_way_to_a_line_of_the_same_length() -> None:
    """Sealed, with its number, and with no more in it than the id and what it was; the others are as they were."""
    before = lines(request(1, SECRET), request(2), response(1, SECRET), response(2), access(1), access(2))
    after, erased = without(before, Wanted({HERS}))
    assert [len(line) for line in after] == [len(line) for line in before]
    assert [after[number] for number in (1, 3, 5)] == [before[number] for number in (1, 3, 5)]
    said = [{name: value for name, value in unseal(after[number]).items() if name != "pad"} for number in (0, 2, 4)]
    assert [each.pop("was") for each in said] == ["request", "response", "access"]
    assert [(each.pop("crc"), each.pop("seq")) for each in said] == [
        (json.loads(after[number])["crc"], 7 + number) for number in (0, 2, 4)
    ]
    assert all(each == {"type": "erased", "exchange": HERS, "worker": 3, "boot_id": "b1"} for each in said)
    assert (erased.lines, erased.ids, erased.damage) == (3, {HERS}, None)


def test_what_has_been_erased_stays_as_it_is() -> None:
    """A second erasure finds nothing."""
    once, _ = without(lines(request(1), request(2)), Wanted({HERS}))
    assert without(once, Wanted({HERS})) == (once, tombstone.Erased())


def test_entries_of_envoy_alone_go_by_envoys_id() -> None:
    """Where no exchange of ours claims them; an entry of ours does not go by it."""
    alone, ours = access(None, request_id="r1", **NO_ROUTE), access(2, request_id="r1")
    after, erased = without(lines(alone, ours), Wanted(set(), frozenset({"r1"})))
    assert [unseal(line)["type"] for line in after] == ["erased", "access"]
    assert erased.lines == 1


HER_LINE = lines(request(1, SECRET))[0]


@pytest.mark.parametrize(
    "damaged",
    [
        HER_LINE[:-20] + b"\n",
        HER_LINE[:-1] + b"!\n",
        HER_LINE.replace(b'"crc":"', b'"crc":"~'),
        HER_LINE.replace(b'"seq":', b'"seq":x'),
        HER_LINE.replace(b'{"type"', b'{"typo"'),
        HER_LINE.replace(b'"id"', b'"iD"'),
        HER_LINE.replace(b'"id":"', b'"id":"\xff'),
        HER_LINE.replace(b'"id":"0', b'"id":"1'),
        HER_LINE.replace(b'"type":"', b'"type":"\xff'),
        HER_LINE[len(HER_LINE) // 2 :],
        HER_LINE.replace(b'"path"', b'"path\n'),
        HER_LINE[:-30],
    ],
)
def test_a_damaged_line_leaves_nothing_behind(damaged: bytes) -> None:
    """Cut, changed, or split: it gives way as any other where it says that it is hers, else it stays damaged with
    nothing in it; nothing moves."""
    before = lines(request(1, SECRET), request(2))
    after, erased = without([*before, damaged], Wanted({HERS}))
    assert erased.lines >= 1
    assert sum(map(len, after)) == sum(map(len, before)) + len(damaged)
    assert after[1] == before[1]
    for line, original in zip(after[2:], damaged.splitlines(keepends=True), strict=True):
        assert len(line) == len(original)
        assert json.dumps(SECRET.decode())[1:-1].encode() not in line
        assert line.isascii()
        if not line.startswith(b'{"type":"erased"'):
            assert set(line.rstrip(b"\n")) == set(b"#")


def test_what_cannot_be_decompressed_goes() -> None:
    """Nobody knows whose it is: what comes before it is kept, and why the rest is gone is said."""
    target = io.BytesIO()
    many = lines(*(request(2, b"x" * 2000) for _ in range(1200)), request(1))
    frames.compress(io.BufferedReader(io.BytesIO(b"".join(many))), target)
    cut = bytearray(target.getvalue())
    cut[-200:-100] = bytes(100)
    data, erased = tombstone.without(frames.decompressed(io.BytesIO(bytes(cut))), Wanted({HERS}))
    assert erased.damage is not None
    assert b"".join(many).startswith(data)
    assert len(data) > 1024 * 1024


@pytest.mark.parametrize("line", [b"", b"\n", b"no JSON\n", b"{}\n", b'{"type":"request","id":"x"}\n', b"\xff" * 99])
def test_what_is_no_whole_line_gets_no_tombstone(line: bytes) -> None:
    """It has no number that one could have."""
    assert tombstone.in_place_of(line, HERS) is None


def test_a_line_that_is_too_short_for_an_id_says_less() -> None:
    """It is of the same length all the same."""
    line = seal(encode({"type": "late", "id": "x" * 20}), 0, "b1", 1)
    stone = tombstone.in_place_of(line, HERS)
    assert stone is not None
    assert len(stone) == len(line)
    assert unseal(stone).keys() == {"type", "pad", "worker", "boot_id", "seq", "crc"}
