"""What was shipped is read as what is on the machines: the same commands, the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import bulk
from support.commands import invoke
from support.journals import START_NS, append, id_of, journal, request, response

from extproc.fleet import view
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.ship import Shipper
from extproc.fleet.span import EVERYTHING, Span
from extproc.history import reader
from extproc.history.join import Exchange
from extproc.journal import lines, recovery

START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
EXCHANGES = 160


class Fleet:
    """Two machines whose journals are closed and shipped."""

    def __init__(self, directory: Path) -> None:
        self.url = directory_url(directory / "bucket")
        self.cache = directory / "cache"
        self.machines = [directory / name for name in ("one", "two")]
        for seed, machine in enumerate(self.machines):
            machine.mkdir(mode=0o700)
            end = int(START.timestamp() + 7200 * seed) * bulk.SECOND
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bulk, "SEGMENT_BYTES", 200_000)
                bulk.write(machine, EXCHANGES >> seed, end_ns=end, seed=seed)
            recovery.recover(machine)
            assert Shipper(machine, self.bucket).round().errors == []
        self.exchanges: list[Exchange] = list(reader.exchanges(self.machines))

    @property
    def bucket(self) -> Bucket:
        """The one to which both ship."""
        return Bucket.open(self.url)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Made once; the cache is one of its own."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXTPROC_CACHE", str(made.cache))
        yield made


QUESTIONS = [
    ["log"],
    ["log", "--json", "--since", "2026-11-20T02:59:42Z", "--until", "2026-11-20T04:59:45Z"],
    ["log", "--since", "2026-11-20T04:59:20Z", "--failed"],
    ["log", "--by", "upstream"],
    ["log", "--json", "--grep", "model-", "--until", "2026-11-20T02:59:36Z"],
    ["inflight", "--at", "2026-11-20T02:59:40Z", "--window", "1s", "--json"],
    ["inflight", "--at-crash"],
    ["incidents", "--json"],
    ["export", "--format", "jsonl", "--bodies", "--since", "2026-11-20T04:59:47Z"],
    ["verify"],
]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_a_bucket_answers_as_the_machines_do(fleet: Fleet, question: list[str]) -> None:
    """The same text and the same exit code, whatever is asked."""
    here = invoke(*question, *(f"--data-dir={machine}" for machine in fleet.machines))
    there = invoke(*question, "--from", fleet.url)
    assert (there.stdout, there.exit_code) == (here.stdout, here.exit_code)
    assert here.stdout or question[0] in ("verify", "incidents") or "--at-crash" in question
    assert not list(fleet.cache.glob("view-*"))


def test_a_name_is_enough_to_find_one_exchange(fleet: Fleet) -> None:
    """By the time in its id one segment or two are fetched; by its end all are, and the answer is the same."""
    id = list(reader.exchanges(fleet.machines[:1]))[-1].id
    here = invoke("show", id, "--json", *(f"--data-dir={machine}" for machine in fleet.machines))
    for name in (id, id[-8:]):
        there = invoke("show", name, "--json", "--from", fleet.url)
        assert there.stdout == here.stdout, there.output


def fetched(fleet: Fleet, span: Span) -> tuple[int, set[str]]:
    """How many segments a question needs, and what is found in them that began in its time."""
    with view.opened(fleet.bucket, span, bodies=False, cache=fleet.cache) as directories:
        count = sum(len(series.names) for directory in directories for series in lines.series(directory))
        found = reader.exchanges(directories)
        return count, {each.id for each in found if span.since <= each.started_at <= span.until}


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-11-20T02:59:36.000000Z", "2026-11-20T02:59:38.000000Z"),
        ("2026-11-20T04:59:30.000000Z", "~"),
        ("", "2026-11-20T02:59:37.000000Z"),
        ("2026-11-21T00:00:00.000000Z", "~"),
        ("", "2026-11-19T00:00:00.000000Z"),
    ],
)
def test_only_what_a_time_needs_is_fetched(fleet: Fleet, since: str, until: str) -> None:
    """All that began in it is there, with its end; what is far from it is not opened."""
    span = Span(since, until)
    everything, _ = fetched(fleet, EVERYTHING)
    count, found = fetched(fleet, span)
    assert found == {each.id for each in fleet.exchanges if since <= each.started_at <= until}
    assert count < everything


def test_an_exchange_that_ends_long_after_brings_its_end(tmp_path: Path) -> None:
    """Its segments are followed until it has ended, and from the middle back to where it began."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    minute = 60 * bulk.SECOND
    now = START_NS

    with journal(data, segment_bytes=1500, clock=lambda: now) as writer:
        append(writer, request(0, at=START_NS))
        for number in range(1, 12):
            now = START_NS + number * 10 * minute
            append(writer, request(number, at=now), response(number, at=now))
        append(writer, response(0, at=START_NS, ended_at="2026-10-26T09:30:00.000000Z"))
    bucket = Bucket.open(directory_url(tmp_path / "bucket"))
    assert Shipper(data, bucket).round().errors == []
    first, later = (f"2026-10-26T{time}.000000Z" for time in ("07:33:20", "08:50:00"))
    for span in (Span(first, first), Span(later, later, running=True)):
        with view.opened(bucket, span, bodies=False, cache=tmp_path / "cache") as directories:
            found = {each.id: each for each in reader.exchanges(directories)}
        assert found[id_of(0)].ended_at is not None
    with view.opened(bucket, Span(later, later), bodies=False, cache=tmp_path / "cache") as directories:
        assert id_of(0) not in {each.id for each in reader.exchanges(directories) if each.request}


def test_the_cache_is_bounded(fleet: Fleet, tmp_path: Path) -> None:
    """What was used least recently goes, and the next question fetches it again."""
    with view.opened(fleet.bucket, EVERYTHING, bodies=True, cache=tmp_path, most_bytes=100_000):
        pass
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) <= 100_000
    with view.opened(fleet.bucket, EVERYTHING, bodies=True, cache=tmp_path) as directories:
        assert len(list(reader.exchanges(directories))) == len(fleet.exchanges)
