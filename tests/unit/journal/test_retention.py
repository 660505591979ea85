"""Closed segments are compressed and deleted by the rules, with their bodies, and nothing else is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.journals import (
    Faults,
    Trace,
    abandon,
    append,
    appended,
    at_rest,
    id_of,
    journal,
    records,
    request,
    response,
    segments,
    write,
)

from extproc.core.effects import Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.errors import JournalError
from extproc.history import bodies, lookup, reader, verify
from extproc.journal import lines, recovery, retention
from extproc.journal.segment import Name

DAY = 86_400
NOW = 1_800_000_000 * 10**9


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def findings(data: Path) -> list[str]:
    """What `verify` says."""
    return [str(finding) for finding in verify.verify(data)]


def aged(data: Path, count: int = 6) -> list[str]:
    """So many closed segments, each with one exchange and a body file, a day apart, the last written now."""
    with journal(data, segment_bytes=1) as writer:
        for number in range(count):
            append(writer, request(number))
            assert write(writer, Spool(id_of(number), Direction.RESPONSE, [b"large body"])) is None
            end = appended(response(number, b"large body", file=True))
            assert write(writer, SpoolEnd(id_of(number), Direction.RESPONSE), end) is None
    names = segments(data)
    for position, name in enumerate(names):
        # Two segments to an exchange; the last one of all is empty.
        seconds = NOW // 10**9 - (len(names) - 1 - position) // 2 * DAY
        os.utime(data / "segments" / name, (seconds, seconds))
    return names


def body_files(data: Path) -> list[str]:
    """The body files."""
    return sorted(path.name for path in (data / "bodies").iterdir())


def test_compression_keeps_every_byte(data: Path) -> None:
    """The same lines, the same age, private, and the original gone."""
    names = aged(data)
    before = records(data)
    times = [(data / "segments" / name).stat().st_mtime_ns for name in names]
    assert retention.compress_closed(data) == [f"{name}.zst" for name in names]
    assert segments(data) == [f"{name}.zst" for name in names]
    assert records(data) == before
    assert [(data / "segments" / name).stat().st_mtime_ns for name in segments(data)] == times
    assert {stat.S_IMODE((data / "segments" / name).stat().st_mode) for name in segments(data)} == {0o600}
    assert retention.compress_closed(data) == []
    assert findings(data) == []


def test_the_original_goes_when_its_compressed_form_is_on_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, then its name in the directory, and only then the segment that it stands for."""
    (name, *_) = aged(data, 1)
    trace = Trace(monkeypatch)
    retention.compress_closed(data)
    assert trace.calls[:4] == [
        f"sync {name}.zst.tmp",
        f"rename {name}.zst.tmp {name}.zst",
        "sync segments",
        f"unlink {name}",
    ]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_segment_is_reduced_when_what_stays_is_on_disk(
    data: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    """Its lines go when those that are needed are there, under a name that is; and before the next segment does."""
    with journal(data, segment_bytes=1500) as writer:
        append(writer, request(1))
        append(writer, *(record for number in range(2, 9) for record in (request(number), response(number))))
    if compressed:
        retention.compress_closed(data)
    first, second = segments(data)[:2]
    trace = Trace(monkeypatch)
    retention.apply(data, days=0, segments=1, bytes=0, now_ns=NOW)
    monkeypatch.undo()
    stem = "w0-b1-000001.jsonl"
    there = [f"sync {stem}.zst.tmp", f"rename {stem}.zst.tmp {stem}.zst", "sync segments"]
    assert trace.calls[:5] == [*there, f"unlink {stem}", "sync segments"]
    assert f"unlink {second}" in trace.calls
    assert (data / "segments" / first).exists() == compressed


def test_an_open_segment_is_left_alone(data: Path) -> None:
    """Neither compressed nor deleted, however old and however little room there is."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        assert retention.compress_closed(data) == []
        assert retention.apply(data, days=1, segments=1, bytes=1, now_ns=NOW * 2).deleted == []
        abandon(writer)
    assert retention.apply(data, days=1, segments=1, bytes=1, now_ns=NOW * 2).deleted == []


def test_an_open_segment_is_left_alone_beside_newer_ones(data: Path) -> None:
    """One that waits for its recovery is no closed one either, though others have been closed since."""
    with journal(data, boot_id="b0") as writer:
        append(writer, request(90), response(90))
        abandon(writer)
    os.utime(data / "segments" / "w0-b0-000001.jsonl.open", (1, 1))
    names = aged(data)
    assert retention.apply(data, days=1, segments=1, bytes=1, now_ns=NOW).deleted
    assert retention.compress_closed(data)
    assert names[0] in segments(data)
    assert names[0] == "w0-b0-000001.jsonl.open"


@pytest.mark.parametrize("call", ["open", "fsync", "rename", "unlink", "utime"])
def test_compression_cut_short_is_done_again(data: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """At every step: no line is lost or doubled meanwhile, and the next round ends it."""
    aged(data, 2)
    before = records(data)
    faults = Faults(monkeypatch)
    for first in range(1, 50):
        faults.fail(call, first=first)
        try:
            retention.compress_closed(data)
        except (OSError, JournalError):
            stopped = True
        else:
            stopped = False
        faults.heal()
        assert records(data) == before
        assert findings(data) == []
        retention.compress_closed(data)
        assert all(name.endswith(".jsonl.zst") for name in segments(data))
        assert records(data) == before
        if not stopped:
            return
        for name in segments(data):
            path = data / "segments" / name
            parsed = Name.parse(name)
            assert parsed is not None
            with lines.open_segment(data, parsed) as file:
                path.with_name(name.removesuffix(".zst")).write_bytes(file.read())
            path.unlink()


def test_by_age(data: Path) -> None:
    """Older than so many days, with the bodies that belong to them; what is left is whole."""
    aged(data)
    retention.apply(data, days=3, segments=0, bytes=0, now_ns=NOW)
    kept = {record["id"] for record in records(data) if "id" in record}
    assert body_files(data) == sorted(f"{id}.response" for id in kept)
    assert 3 <= len(kept) <= 4
    assert findings(data) == []


def test_by_number(data: Path) -> None:
    """The newest so many stay."""
    names = aged(data)
    retention.apply(data, days=0, segments=4, bytes=0, now_ns=NOW)
    assert segments(data) == names[-4:]
    assert findings(data) == []


def test_by_size_with_bodies(data: Path) -> None:
    """Bodies count. As much goes as the rule asks for, and no more."""
    aged(data)

    def size() -> int:
        return sum(path.stat().st_size for part in ("segments", "bodies") for path in (data / part).iterdir())

    limit = size() // 2
    largest = max(path.stat().st_size for path in (data / "segments").iterdir()) + len(b"large body")
    retention.apply(data, days=0, segments=0, bytes=limit, now_ns=NOW)
    assert limit - largest < size() <= limit
    assert findings(data) == []


def test_no_limits(data: Path) -> None:
    """Zero is no limit."""
    names = aged(data)
    assert retention.apply(data, days=0, segments=0, bytes=0, now_ns=NOW).deleted == []
    assert segments(data) == names


def test_both_forms_of_a_segment_go(data: Path) -> None:
    """Where a compression was cut short before the old file went, deleting one of the two would bring it back."""
    (first, *_) = aged(data)
    both = (data / "segments" / first).read_bytes()
    retention.compress_closed(data)
    (data / "segments" / first).write_bytes(both)
    os.utime(data / "segments" / first, (1, 1))
    retention.apply(data, days=0, segments=8, bytes=0, now_ns=NOW)
    assert not [name for name in segments(data) if name.startswith(first)]
    assert findings(data) == []


@pytest.mark.parametrize("years", [12, 100])
def test_a_wrong_clock_does_not_empty_the_journal(data: Path, years: int) -> None:
    """The newest closed segment stays, even in 2038; a clock that is set back deletes nothing."""
    names = aged(data)
    assert retention.apply(data, days=1, segments=0, bytes=0, now_ns=0).deleted == []
    retention.apply(data, days=1, segments=0, bytes=0, now_ns=NOW + years * 365 * DAY * 10**9)
    assert segments(data) == names[-1:]


def test_the_clock_of_the_rules_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting the machine's clock while the sidecar runs makes nothing old."""
    clock = retention.SteadyClock()
    monkeypatch.setattr("time.time_ns", lambda: 2**62)
    assert clock() < 2**61


def stored(data: Path, type: str | None = None) -> list[str]:
    """The ids of the records that are there."""
    return [record["id"] for record in records(data, type=type) if "id" in record]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("rule", [{"days": 1}, {"segments": 2}, {"bytes": 1}])
def test_an_exchange_that_never_ends_keeps_its_beginning_and_nothing_else(
    data: Path, rule: dict[str, int], compressed: bool
) -> None:
    """Whatever the rule, and however often: its request can be read, the rest of its segment and all others go."""
    limits: Any = {"days": 0, "segments": 0, "bytes": 0} | rule
    with journal(data, segment_bytes=600) as writer:
        append(writer, request(1), response(1), request(2, b"for ever"), request(3), response(3))
        for number in range(4, 30):
            append(writer, request(number), response(number))
            at_rest(writer)
            if compressed:
                retention.compress_closed(data)
            if number % 7 == 0:
                retention.apply(data, **limits, now_ns=NOW)
        retention.apply(data, **limits, now_ns=NOW)
        assert len(segments(data)) <= 7  # of more than fifty
        assert stored(data)[0] == id_of(2)
        assert not {id_of(1), id_of(3), id_of(10)} & set(stored(data))
        assert findings(data) == []
        (found,) = lookup.find([data], id_of(2))
        assert (found.in_flight, bodies.whole(found, "request")) == (True, b"for ever")
        assert [each.id for each in reader.exchanges([data]) if each.in_flight] == [id_of(2)]
        append(writer, response(2))
        assert findings(data) == []
    assert [each.id for each in reader.exchanges([data]) if each.in_flight] == []
    retention.apply(data, **limits, now_ns=NOW)
    assert id_of(2) not in stored(data, "request")
    assert len(segments(data)) <= 2
    assert findings(data) == []


def test_what_never_ends_is_ended_when_its_sidecar_does(data: Path) -> None:
    """Its beginning stood alone by then; recovery ends it, and then it goes like everything else."""
    with journal(data, segment_bytes=600) as writer:
        append(
            writer, request(1), *(record for number in range(2, 9) for record in (request(number), response(number)))
        )
        at_rest(writer)
        retention.apply(data, days=0, segments=1, bytes=0, now_ns=NOW)
        abandon(writer)
    assert recovery.recover(data).orphans == [id_of(1)]
    assert findings(data) == []
    assert [found.outcome for found in lookup.find([data], id_of(1))] == ["sidecar_restart_orphan"]
    with journal(data, boot_id="b2") as writer:
        append(writer, request(20), response(20))
    retention.apply(data, days=0, segments=1, bytes=0, now_ns=NOW)
    assert stored(data) == [id_of(20), id_of(20)]
    assert findings(data) == []


def test_a_segment_that_was_set_aside_goes_like_a_closed_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for recovery under its open name, and nobody writes it: it must not leave a hole behind it."""
    faults = Faults(monkeypatch)
    with journal(data, segment_bytes=2000) as writer:
        append(writer, request(1))
        faults.fail("fdatasync", times=1)
        append(writer, response(1))
        for number in range(2, 9):
            append(writer, request(number), response(number))
        at_rest(writer)
        assert segments(data)[0].endswith(".open")
        retention.apply(data, days=0, segments=2, bytes=0, now_ns=NOW)
        assert id_of(1) not in stored(data)
        assert findings(data) == []


def test_no_open_segment_of_any_series_goes(data: Path) -> None:
    """Of several workers, dead and alive, each keeps the one that it writes or wrote last, whatever the rules say."""
    with journal(data, boot_id="dead", worker=1) as gone:
        append(gone, request(1))
        abandon(gone)
    with journal(data, worker=0, segment_bytes=600) as writer:
        append(writer, *(record for number in range(2, 9) for record in (request(number), response(number))))
        at_rest(writer)
        retention.apply(data, days=1, segments=1, bytes=1, now_ns=NOW * 2)
        still_open = [name for name in segments(data) if name.endswith(".open")]
        assert {name.partition("-")[0] for name in still_open} == {"w0", "w1"}
        append(writer, request(9), response(9))
    assert recovery.recover(data).orphans == [id_of(1)]
    assert findings(data) == []


@pytest.mark.parametrize("segment_bytes", [1, 600])
@pytest.mark.parametrize("directions", [["request"], ["response"], ["request", "response"]])
def test_a_body_goes_with_the_last_record_of_its_exchange(
    data: Path, directions: list[str], segment_bytes: int
) -> None:
    """Not with the first that names it: as long as an exchange is there, and no longer, so are its bodies."""
    with journal(data, segment_bytes=segment_bytes) as writer:
        for number in range(8):
            id, in_file = id_of(number), {name: name in directions for name in ("request", "response")}
            append(writer, request(number, b"long", file=in_file["request"], type="open"))
            for direction, record in ((Direction.REQUEST, request), (Direction.RESPONSE, response)):
                if in_file[direction.value]:
                    assert write(writer, Spool(id, direction, [b"long"])) is None
                    end = appended(record(number, b"long", file=True))
                    assert write(writer, SpoolEnd(id, direction), end) is None
                else:
                    append(writer, record(number, b"long"))
    for left in range(len(segments(data)), 0, -1):
        retention.apply(data, days=0, segments=left, bytes=0, now_ns=NOW)
        assert findings(data) == []
        assert body_files(data) == sorted({f"{id}.{name}" for id in stored(data, "response") for name in directions})
        for exchange in reader.exchanges([data]):
            for name in directions:
                if getattr(exchange, name) is not None:
                    assert bodies.whole(exchange, name) == b"long"


def test_the_body_of_an_orphan_goes_with_it(data: Path) -> None:
    """Also one that no record names, since the sidecar died before it could."""
    with journal(data) as writer:
        assert write(writer, Spool(id_of(1), Direction.REQUEST, [b"half"])) is None
        abandon(writer)
    recovery.recover(data)
    with journal(data, boot_id="b2") as writer:
        append(writer, request(2), response(2))
    assert body_files(data) == [f"{id_of(1)}.request"]
    retention.apply(data, days=0, segments=1, bytes=0, now_ns=NOW)
    assert body_files(data) == []
    assert findings(data) == []


def test_a_body_that_a_client_named_is_not_deleted(data: Path) -> None:
    """Text that looks like a reference to a body file, inside a body, is text."""
    with journal(data, segment_bytes=1) as writer:
        assert write(writer, Spool(id_of(9), Direction.REQUEST, [b"keep me"])) is None
        forged = f'","body":{{"file":"bodies/{id_of(9)}.request"}},"x":"'.encode()
        append(writer, request(1, forged), response(1, forged))
        at_rest(writer)
        retention.apply(data, days=0, segments=1, bytes=0, now_ns=NOW)
        assert body_files(data) == [f"{id_of(9)}.request"]
        append(writer, response(9))


def test_torn_ends_go_by_age(data: Path) -> None:
    """They are evidence, and they get old like everything else."""
    aged(data, 1)
    torn = data / "segments" / "w0-b0-000001.torn"
    torn.write_bytes(b"x")
    os.utime(torn, (NOW // 10**9 - 2 * DAY,) * 2)
    assert retention.apply(data, days=3, segments=0, bytes=0, now_ns=NOW).deleted == []
    assert retention.apply(data, days=1, segments=0, bytes=0, now_ns=NOW).deleted == ["w0-b0-000001.torn"]


def test_a_round_of_housekeeping(data: Path) -> None:
    """Deletes, then compresses what is left; without a journal there is nothing to do."""
    names = aged(data)
    done = retention.apply_retention(data, days=0, segments=4, bytes=0)
    assert len(done.deleted) == len(names) - 4
    assert done.compressed == segments(data)
    assert len(segments(data)) == 4


def test_a_clock_that_was_ahead_for_a_while_keeps_nothing(data: Path) -> None:
    """What it wrote is as old as its file, and what came after it is as old as it says."""
    names = aged(data)
    future = NOW // 10**9 + 3650 * DAY
    os.utime(data / "segments" / names[0], (future, future))
    retention.apply(data, days=1, segments=0, bytes=0, now_ns=NOW)
    assert 1 <= len(segments(data)) < 6
    assert names[0] not in segments(data)
