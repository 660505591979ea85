"""Which segments of a bucket a question needs: none that has an answer is left out, whatever a host's clock did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.journals import append, id_of, journal, request, response

from extproc.core.record import encode, seal
from extproc.fleet import view
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.catalog import Catalog
from extproc.fleet.names import Place
from extproc.fleet.ship import Shipper
from extproc.fleet.span import EVERYTHING, Span
from extproc.fleet.tombstone import compressed
from extproc.history import reader
from extproc.history.extents import ALWAYS

DAY = "2026-11-20"
START = datetime(2026, 11, 20, tzinfo=UTC)


def moment(minutes: float) -> str:
    """So many minutes after the beginning of the day, as in records."""
    return (START + timedelta(minutes=minutes)).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def nanoseconds(minutes: float) -> int:
    """The same as a clock says it."""
    return round((START + timedelta(minutes=minutes)).timestamp()) * 1_000_000_000


class Counting(Bucket):
    """A bucket that counts the heads that are read."""

    heads = 0

    def start_of(self, path: str, most: int) -> bytes:
        self.heads += 1
        return super().start_of(path, most)


@dataclass(frozen=True)
class Head:
    """What the first line of a segment says; `None` for one that is damaged."""

    minutes: float
    in_flight: Sequence[float] = ()
    """When they began."""
    latest: float | None = None
    damaged: bool = False


def bucket_of(directory: Path, heads: Sequence[Head]) -> Counting:
    """A bucket with one series of segments that have these heads, and nothing else in them."""
    bucket = Counting.open(directory_url(directory))
    for number, head in enumerate(heads, 1):
        ids = {id_of(number, nanoseconds(began)): "request" for number, began in enumerate(head.in_flight)}
        fields: dict[str, Any] = {"type": "segment", "version": 1, "at": moment(head.minutes), "in_flight": ids}
        if head.latest is not None:
            fields["latest"] = moment(head.latest)
        line = seal(encode(fields), 0, "b1", number)
        data = compressed(line.replace(b'"version"', b'"Version"') if head.damaged else line)
        bucket.create(Place(moment(head.minutes)[:10], "one", f"w0-b1-{number:06d}").raw, data)
    return bucket


def chosen(bucket: Bucket, span: Span) -> list[int]:
    """The numbers of the segments that are needed."""
    return [each.place.name.number for each in Catalog(bucket).chosen(span, bodies=False)]


IN_ORDER = [Head(minutes) for minutes in range(0, 100, 10)]
SET_BACK = [Head(60), Head(70), Head(10, latest=80), Head(20), Head(30)]
SET_BACK_A_LITTLE = [Head(0), Head(10), Head(15, latest=25), Head(25)]
LONG = [Head(0), Head(10, [5]), Head(20, [5]), Head(30, [5]), Head(40), Head(50)]
WEEK = [Head(1440 * day) for day in range(7)]


@pytest.mark.parametrize(
    ("heads", "since", "until", "needed"),
    [
        (IN_ORDER, None, None, list(range(1, 11))),
        (IN_ORDER, 35, 45, [4, 5]),
        (IN_ORDER, 40, 40, [4, 5]),  # a minute is allowed for
        (IN_ORDER, 500, None, [10]),
        (IN_ORDER, None, -5, []),
        (SET_BACK, None, 12, [2, 3]),
        (SET_BACK, 75, None, [2, 5]),
        (SET_BACK, 12, 12, [2, 3]),
        (SET_BACK, 65, 65, [1, 2, 5]),
        ([Head(60), Head(70), Head(10), Head(20)], 12, 12, [2, 3]),  # of a version that does not say how far
        ([Head(60), Head(70), Head(10), Head(20)], 100, 110, [2, 4]),
        (SET_BACK_A_LITTLE, 23, 23, [2, 3]),
        (SET_BACK_A_LITTLE, 27, None, [4]),
        (LONG, 4, 6, [1, 2, 3, 4]),
        (LONG, 12, 12, [2, 3, 4]),
        ([Head(0), Head(10, damaged=True), Head(20), Head(30)], 25, 25, [1, 3]),
        ([Head(0), Head(10), Head(20, damaged=True), Head(30)], 25, 25, [2, 3]),
        (WEEK, 3 * 1440 + 5, 3 * 1440 + 6, [4]),
        ([Head(1440 * 2000), *WEEK], 5, 6, [1, 2]),  # years ahead at the start
        ([], 5, 6, []),
    ],
)
def test_each_segment_is_judged_by_its_own_time(
    tmp_path: Path, heads: Sequence[Head], since: float | None, until: float | None, needed: list[int]
) -> None:
    """By its head, the next one's, and what was in flight; not by its place among others."""
    span = Span("" if since is None else moment(since), ALWAYS if until is None else moment(until))
    assert chosen(bucket_of(tmp_path, heads), span) == needed


def test_what_was_running_brings_its_beginning(tmp_path: Path) -> None:
    """From the segment that has it in flight back to the one that has not; never to those before."""
    heads = [Head(0), Head(10), Head(20, [15]), Head(30, [15]), Head(40)]
    bucket = bucket_of(tmp_path, heads)
    assert chosen(bucket, Span(moment(35), moment(36), running=True)) == [2, 3, 4]
    assert chosen(bucket, Span(moment(35), moment(36))) == [4]


def test_far_from_a_time_no_head_is_read(tmp_path: Path) -> None:
    """The day in a name is enough."""
    bucket = bucket_of(tmp_path, WEEK)
    assert chosen(bucket, EVERYTHING) == list(range(1, 8))
    assert bucket.heads == 0
    chosen(bucket, Span(moment(3 * 1440 + 5), ALWAYS))
    assert bucket.heads == 1


def test_what_else_is_in_a_bucket_is_passed_over(tmp_path: Path) -> None:
    """Objects with names that are none of ours, and segments that stand elsewhere."""
    bucket = bucket_of(tmp_path, IN_ORDER[:1])
    for path in ("v1/raw/dt=2026-11-20/host=one/notes.txt", "v1/raw/w0-b1-000009.jsonl.zst", "v1/raw/dt=x/host=one/y"):
        bucket.create(path, b"")
    assert chosen(bucket, EVERYTHING) == [1]


@pytest.mark.parametrize(("jump", "ends"), [(-7, 25), (-15, 0.5), (-200, 25), (-2000, 0.5), (200, 25)])
def test_a_clock_that_is_set_hides_nothing(tmp_path: Path, jump: float, ends: float) -> None:
    """A journal whose clock is set forward or back is asked in a bucket for each short time: all that began is there,
    with its end."""
    data, now = tmp_path / "data", 600.0
    data.mkdir(mode=0o700)
    running: list[tuple[float, int, float]] = []
    began: dict[str, str] = {}
    with journal(data, segment_bytes=9000, clock=lambda: nanoseconds(now)) as writer:
        for number in range(24):
            now += jump if number == 11 else 5
            at = nanoseconds(now)
            append(writer, request(number, at=at))
            began[id_of(number, at)] = moment(now)
            running.append((number * 5 + ends, number, now))
            while running and running[0][0] <= number * 5 + 1:
                _, over, then = running.pop(0)
                append(writer, response(over, at=nanoseconds(then)))
        for _, over, then in running:
            append(writer, response(over, at=nanoseconds(then)))
    bucket = Bucket.open(directory_url(tmp_path / "bucket"))
    assert Shipper(data, bucket).round().errors == []
    for id, at_start in list(began.items())[9:15]:
        with view.opened(bucket, Span(at_start, at_start), bodies=False, cache=tmp_path / "cache") as directories:
            found = {each.id: each for each in reader.exchanges(directories)}
        assert (found[id].ended_at is None, found[id].request is None) == (False, False), at_start
