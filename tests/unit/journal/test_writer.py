"""What the journal promises to whoever waits: nothing that was acknowledged is lost, and nobody waits for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import syscalls
from support.journals import (
    START_NS,
    WAIT_SECONDS,
    Faults,
    Waiter,
    abandon,
    append,
    appended,
    id_of,
    ids,
    journal,
    records,
    request,
    response,
    segments,
    write,
)
from support.small_disk import fill, make_room, small_disk
from support.stack import eventually

from extproc.core.effects import Append
from extproc.core.events import Direction
from extproc.core.record import LONGEST, LONGEST_LINE, encode
from extproc.core.records import Access, Request, Response
from extproc.errors import JournalError
from extproc.history import verify
from extproc.journal import recovery
from extproc.journal.writer import Journal

DAY = 86_400_000_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """A disk with faults."""
    return Faults(monkeypatch)


def findings(data: Path) -> list[str]:
    """What `verify` says."""
    return [str(finding) for finding in verify.verify(data)]


# In fair weather ---------------------------------------------------------------------------------------------


def test_a_closed_journal_is_whole(data: Path) -> None:
    """A header, the records in order, a footer; every line numbered; nothing for `verify` to find."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    assert segments(data) == ["w0-b1-000001.jsonl"]
    assert [record["type"] for record in records(data)] == ["segment", "request", "response", "end"]
    assert [record["seq"] for record in records(data)] == [1, 2, 3, 4]
    assert findings(data) == []


def test_effects_of_one_exchange_keep_their_order(data: Path) -> None:
    """Several records submitted at once are written in their order, and acknowledged together."""
    with journal(data) as writer:
        assert write(writer, appended(request(1), gate=False), appended(response(1)), appended(request(2))) is None
        append(writer, response(2))
    assert ids(records(data)) == [id_of(1), id_of(1), id_of(2), id_of(2)]


def test_nothing_is_acknowledged_before_it_is_synced(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `fsync` the word comes after the sync that covers the record; what arrives meanwhile shares the next one."""
    syncing, go_on = threading.Event(), threading.Event()
    real, syncs = os.fdatasync, []

    def held(fd: int) -> None:
        syncs.append(fd)
        syncing.set()
        assert go_on.wait(WAIT_SECONDS)
        real(fd)

    with journal(data) as writer:
        monkeypatch.setattr(os, "fdatasync", held)
        waiter = Waiter()
        writer.submit([appended(request(1))], waiter)
        assert syncing.wait(WAIT_SECONDS)
        for number in range(2, 12):
            writer.submit([appended(request(number))], waiter)
        assert waiter.answers == []
        go_on.set()
        assert waiter.wait(11) == [None] * 11
        assert len(syncs) == 2
        append(writer, *(response(number) for number in range(1, 12)))


@pytest.mark.parametrize("durability", ["write", "off"])
def test_without_fsync_nothing_is_synced(data: Path, durability: str, faults: Faults) -> None:
    """`write` and `off` leave it to the system."""
    faults.fail("fdatasync")
    with journal(data, durability=durability) as writer:
        append(writer, request(1), response(1))
    assert "fdatasync" not in faults.calls
    assert findings(data) == []


def test_a_segment_that_is_full_is_followed_by_the_next(data: Path) -> None:
    """Rotation by size: each segment has header and footer, numbers go on, and one at least is open at any time."""
    with journal(data, segment_bytes=2000) as writer:
        for number in range(12):
            append(writer, request(number), response(number))
            assert segments(data)[-1].endswith(".open")
    seqs = [record["seq"] for record in records(data)]
    assert len(segments(data)) > 4
    assert seqs == list(range(1, len(seqs) + 1))
    assert findings(data) == []


def test_the_head_of_a_segment_knows_what_is_in_flight(data: Path) -> None:
    """So that recovery need not read what was closed before."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, request(1), request(2), response(2), response(1))
    heads = [record["in_flight"] for record in records(data, type="segment")]
    assert heads == [
        {},
        {id_of(1): "request"},
        {id_of(1): "request", id_of(2): "request"},
        {id_of(1): "request"},
        {},
    ]


@pytest.mark.parametrize("jump", [DAY, -DAY, 60 * DAY, 12 * 365 * DAY, -40 * 365 * DAY])
def test_a_new_day_begins_a_new_segment(data: Path, jump: int) -> None:
    """By UTC, whichever way the clock goes: tomorrow, yesterday, past 2038, back to before the epoch's first years."""
    now = START_NS
    with journal(data, clock=lambda: now) as writer:
        append(writer, request(1), response(1))
        now += jump
        append(writer, request(2), response(2))
        append(writer, request(3), response(3))
    assert segments(data) == ["w0-b1-000001.jsonl", "w0-b1-000002.jsonl"]
    assert findings(data) == []


def test_content_cannot_forge_a_record(data: Path) -> None:
    """Line ends, quotes and whole records inside a body stay inside the body."""
    forged = b'"}\n{"type":"response","id":"x","seq":1,"crc":"00000000"}\n\x00\x1b[2J\r\n\xe2\x80\xa8'
    with journal(data) as writer:
        append(writer, request(1, forged), response(1, forged + b"\xff"))
    assert [record["type"] for record in records(data)] == ["segment", "request", "response", "end"]
    raw = (data / "segments" / segments(data)[0]).read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == 4
    assert findings(data) == []


def test_a_closed_journal_takes_nothing(data: Path) -> None:
    """Whoever comes too late is told, at once."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    assert "closed" in str(write(writer, appended(request(2))))
    writer.close(1)
    assert findings(data) == []


def test_an_exchange_still_in_flight_leaves_the_segment_to_recovery(data: Path) -> None:
    """Closing does not hide that an exchange has no terminal record; the next start writes it."""
    with journal(data) as writer:
        append(writer, request(1))
    assert segments(data) == ["w0-b1-000001.jsonl.open"]
    assert recovery.recover(data).orphans == [id_of(1)]
    assert findings(data) == []


def test_a_boot_id_names_one_process(data: Path) -> None:
    """A second journal of the same boot cannot begin; a name that is no file name is refused."""
    with journal(data) as writer:
        second = Journal(data, worker=0, boot_id="b1")
        with pytest.raises(JournalError, match="File exists"):
            second.start()
        append(writer, request(1), response(1))
    with pytest.raises(ValueError, match="boot id"):
        Journal(data, worker=0, boot_id="../x")


# Something that cannot be written ------------------------------------------------------------------------------


def test_one_bad_record_does_not_take_the_others_with_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is too long, in one batch with good ones: it alone is refused."""
    syncing, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def held(fd: int) -> None:
        syncing.set()
        assert go_on.wait(WAIT_SECONDS)
        real(fd)

    with journal(data) as writer:
        monkeypatch.setattr(os, "fdatasync", held)
        writer.submit([appended(request(1))], None)
        assert syncing.wait(WAIT_SECONDS)
        good, bad = Waiter(), Waiter()
        writer.submit([appended(response(1))], good)
        writer.submit([Append(Request(id="long", path="x" * LONGEST_LINE))], bad)
        writer.submit([Append(Response(id="long", path="x" * LONGEST_LINE))], bad)
        writer.submit([appended(request(2)), appended(response(2))], good)
        go_on.set()
        assert good.wait(2) == [None, None]
        assert all(error is not None for error in bad.wait(2))
        assert writer.failure is None
    assert ids(records(data)) == [id_of(1), id_of(1), id_of(2), id_of(2)]
    assert findings(data) == []


def test_a_record_that_no_reader_would_take_for_one_is_refused(data: Path) -> None:
    """One limit for whoever writes and whoever reads: what is acknowledged is read back, whatever its length."""
    with journal(data) as writer:
        append(writer, request(1), request(2))
        rest = LONGEST - len(encode(Access(id=None, path="")))
        assert write(writer, Append(Access(id=None, path="y" * rest))) is None
        error = write(writer, Append(Access(id=None, path="y" * (rest + 2000))))
        assert "is longer than any may be" in str(error)
        assert write(writer, appended(response(1, b"\0" * (LONGEST // 6 + 1000)))) is not None
        append(writer, response(2))
    assert segments(data) == ["w0-b1-000001.jsonl"]
    found = {record["id"]: record for record in records(data, type="response")}
    assert found[id_of(1)]["response"]["body_lost"]
    assert [len(record["path"]) for record in records(data, type="access")] == [rest]
    assert [record["seq"] for record in records(data)] == [1, 2, 3, 4, 5, 6, 7]
    assert findings(data) == []


def test_a_reply_that_cannot_be_sent_hurts_nobody(data: Path) -> None:
    """A `done` that raises is its own trouble."""

    def broken(error: JournalError | None) -> None:
        raise RuntimeError("gone")

    with journal(data) as writer:
        writer.submit([appended(request(1))], broken)
        append(writer, response(1))
    assert findings(data) == []


def test_a_writer_that_dies_leaves_nobody_waiting(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that no one foresaw: everyone is told, then and later, and the journal says that it has failed."""
    with journal(data) as writer:
        append(writer, request(1))

        def dies(batch: object) -> None:
            raise MemoryError("unforeseen")

        monkeypatch.setattr(writer, "_carry_out", dies)
        assert "has died" in str(write(writer, appended(response(1))))
        assert "has died" in str(write(writer, appended(request(2))))
        assert "has died" in str(writer.failure)
        writer.gap(Direction.REQUEST, "x", START_NS)
    assert recovery.recover(data).orphans == [id_of(1)]
    assert findings(data) == []


# A disk that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_failed_call_is_not_repeated_on_the_same_file(data: Path, faults: Faults, call: str) -> None:
    """The segment is set aside and the records go to a new one: nobody sees an error, nothing is there twice."""
    with journal(data) as writer:
        append(writer, request(1))
        faults.fail(call, times=1)
        append(writer, response(1), request(2), response(2))
        assert writer.failure is None
        assert segments(data) == ["w0-b1-000001.jsonl.open", "w0-b1-000002.jsonl.open"]
        assert findings(data) == []
    recovery.recover(data)
    assert segments(data) == ["w0-b1-000001.jsonl", "w0-b1-000002.jsonl"]
    assert ids(records(data)) == [id_of(1), id_of(1), id_of(2), id_of(2)]
    assert findings(data) == []


def test_lines_that_could_not_be_cut_off_are_void(data: Path, faults: Faults) -> None:
    """When the failed lines stay in the old segment, they count once all the same, and recovery sets them aside."""
    with journal(data) as writer:
        append(writer, request(1))
        faults.fail("fdatasync", times=1)
        faults.fail("ftruncate", times=1)
        append(writer, response(1))
        assert findings(data) == []
    assert recovery.recover(data).torn == ["w0-b1-000001.torn"]
    assert ids(records(data)) == [id_of(1), id_of(1)]
    assert findings(data) == []


@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "fsync"])
def test_when_no_segment_can_be_written_everyone_is_told(data: Path, faults: Faults, call: str) -> None:
    """The policy has its error, the journal says why it fails, and service resumes by itself."""
    with journal(data) as writer:
        append(writer, request(1))
        faults.fail("fdatasync", times=1)
        faults.fail(call)
        error = write(writer, appended(request(2)))
        assert "Input/output error" in str(error)
        assert writer.failure is not None
        assert write(writer, appended(request(3))) is not None
        faults.heal()
        while write(writer, appended(request(4))) is not None:
            pass
        append(writer, response(4), response(1))
    recovery.recover(data)
    assert ids(records(data)) == [id_of(1), id_of(4), id_of(4), id_of(1)]
    assert findings(data) == []


def test_a_failing_journal_leaves_the_disk_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its tries it refuses without a system call."""
    faults = Faults(monkeypatch)
    with journal(data, retry_seconds=1000.0) as writer:
        faults.fail("fdatasync")
        faults.fail("open")
        write(writer, appended(request(1)))
        faults.calls.clear()
        for number in range(100):
            assert write(writer, appended(request(number))) is not None
        assert faults.calls == []
        faults.heal()


def test_service_resumes_without_anyone_asking(data: Path, faults: Faults) -> None:
    """A balancer sends nothing to a sidecar whose health is red: the journal has to find out by itself."""
    with journal(data) as writer:
        faults.fail("write")
        assert write(writer, appended(request(1))) is not None
        faults.heal()
        recovered = threading.Event()
        while writer.failure is not None:
            recovered.wait(0.005)
        append(writer, request(2), response(2))
    recovery.recover(data)
    assert findings(data) == []


def test_gaps_are_counted_and_written_once_it_works_again(data: Path, faults: Faults) -> None:
    """One record for each direction and reason: from, to, how many, why."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        faults.fail("write")
        assert write(writer, appended(request(2))) is not None
        for second in (3, 1, 2):
            writer.gap(Direction.REQUEST, "refused: full", START_NS + second * 1_000_000_000)
        writer.gap(Direction.RESPONSE, "passed: full", START_NS)
        faults.heal()
        while write(writer, appended(request(3))) is not None:
            pass
        append(writer, response(3))
        writer.gap(Direction.REQUEST, "late", START_NS)
    recovery.recover(data)
    seen = [
        (gap["direction"], gap["why"], gap["count"], gap["from"][-11:], gap["to"][-11:])
        for gap in records(data, type="gap")
    ]
    assert seen == [
        ("request", "refused: full", 3, "1.000000Z", "3.000000Z"),
        ("response", "passed: full", 1, "0.000000Z", "0.000000Z"),
        ("request", "late", 1, "0.000000Z", "0.000000Z"),
    ] or [row[:3] for row in seen] == [
        ("request", "refused: full", 3),
        ("response", "passed: full", 1),
        ("request", "late", 1),
    ]
    assert findings(data) == []


def test_an_exchange_whose_end_could_not_be_written_gets_one(data: Path, faults: Faults) -> None:
    """Its request is on disk, so its terminal record follows when writing works again, without the body."""
    with journal(data) as writer:
        append(writer, request(1))
        faults.fail("write")
        assert write(writer, appended(response(1, b"secret answer"))) is not None
        assert write(writer, appended(response(7, b"its request was refused"))) is not None
        faults.heal()
        while write(writer, appended(request(2))) is not None:
            pass
        append(writer, response(2))
    recovery.recover(data)
    ends = {record["id"]: record["response"] for record in records(data, type="response")}
    assert sorted(ends) == [id_of(1), id_of(2)]
    assert ends[id_of(1)]["body"] is None
    assert (ends[id_of(1)]["body_lost"], ends[id_of(1)]["truncated"]) == (True, False)
    assert records(data, type="orphan") == []
    assert findings(data) == []


def test_below_the_floor_the_disk_counts_as_full(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are refused while there is still room for the rest of the machine, and taken again when there is more."""
    short: list[str | None] = [None]
    with journal(data) as writer:
        monkeypatch.setattr(writer._series._space, "shortage", lambda: short[0])
        append(writer, request(1))
        short[0] = "only 5 bytes are free"
        assert "only 5 bytes are free" in str(write(writer, appended(request(2))))
        short[0] = None
        while write(writer, appended(response(1))) is not None:
            pass
    assert segments(data) == ["w0-b1-000001.jsonl"]
    assert findings(data) == []


def test_a_segment_that_cannot_be_opened_at_rotation_is_no_failure(data: Path, faults: Faults) -> None:
    """The old one goes on being written until the next can be made."""
    with journal(data, segment_bytes=1500) as writer:
        append(writer, request(1))
        faults.fail("open")
        append(writer, *(response(1), request(2), response(2), request(3), response(3), request(4)))
        assert writer.failure is None
        assert faults.calls.count("open") >= 1
        faults.heal()
        append(writer, response(4), request(5), response(5))
    assert ids(records(data)) == [id_of(number) for number in (1, 2, 3, 4, 5) for _ in range(2)]
    assert findings(data) == []


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "rename", "open", "ftruncate", "unlink"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_nothing_acknowledged_is_lost_wherever_a_call_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    """EIO at the Nth call, for each N that this load reaches: what was acknowledged is there, once."""
    faults = Faults(monkeypatch)
    faults.fail(call, times=0)
    for first in range(1, 1000):
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        faults.heal()
        with journal(data, segment_bytes=1500, retry_seconds=0.0) as writer:
            faults.fail(call, first=first, times=times)
            acknowledged = [
                (kind, id_of(number))
                for number in range(6)
                for kind, record in (("request", request(number)), ("response", response(number)))
                if write(writer, appended(record)) is None
            ]
        reached = faults.reached(call)
        faults.heal()
        recovery.recover(data)
        written = [(record["type"], record["id"]) for record in records(data) if "id" in record]
        assert [entry for entry in acknowledged if written.count(entry) != 1] == []
        assert findings(data) == []
        shutil.rmtree(data)
        if reached < first:
            break
    else:
        pytest.fail("the load never ends")


# A disk that is full, a process that dies ------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with small_disk(tmp_path / "small", "1m") as path:
        yield path


def test_a_full_disk(small: Path) -> None:
    """No floor, no space: records are refused, none that was acknowledged is lost, and service resumes with space."""
    with journal(small, segment_bytes=100_000) as writer:
        acknowledged = []
        number = 0
        while (error := write(writer, appended(request(number, b"x" * 10_000)))) is None:
            acknowledged.append(id_of(number))
            number += 1
        assert "No space left" in str(error)
        assert writer.failure is not None
        for end in range(number):
            write(writer, appended(response(end)))
        writer.gap(Direction.REQUEST, "refused", START_NS)
        assert [id for id in acknowledged if id not in ids(records(small, type="request"))] == []
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        while write(writer, appended(request(1000))) is not None:
            pass
        append(writer, response(1000))
    recovery.recover(small)
    assert sorted(ids(records(small, type="response"))) == sorted([*acknowledged, id_of(1000)])
    assert [gap["count"] for gap in records(small, type="gap")] == [1]
    assert findings(small) == []


@pytest.mark.parametrize("full", [True, False])
def test_a_start_for_which_there_is_no_room(small: Path, full: bool) -> None:
    """It starts all the same and refuses; with room it first ends what was left open, then goes on by itself."""
    with journal(small, boot_id="b0") as before:
        append(before, request(1))
        abandon(before)
    fill(small)
    torn = b'{"half a line'
    with (small / "segments" / "w0-b0-000001.jsonl.open").open("r+b") as file:  # no byte more than there were
        file.seek(-len(torn), os.SEEK_END)
        file.write(torn)
    if not full:
        make_room(small)
    with journal(small, recover=lambda: recovery.recover(small, worker=0)) as writer:
        if full:
            assert "No space left" in str(writer.failure)
            assert "No space left" in str(write(writer, appended(request(2))))
            make_room(small)
            eventually(lambda: writer.failure is None, "room")
        append(writer, request(3), response(3))
    assert ids(records(small)) == [id_of(3), id_of(3)]
    assert segments(small)[:2] == ["w0-b0-000001.jsonl", "w0-b0-000001.torn"]
    assert findings(small) == []


@pytest.mark.parametrize("patient", [True, False])
def test_a_start_that_the_disk_does_not_allow(data: Path, faults: Faults, patient: bool) -> None:
    """Something else than room is worth an error at a first start; a successor waits for the disk all the same."""
    writer = Journal(data, worker=0, boot_id="b1", free_space_floor_bytes=0, retry_seconds=0.01)
    faults.fail("write", error=errno.EIO)
    if not patient:
        with pytest.raises(JournalError, match="cannot open a segment: Input/output error"):
            writer.start()
        return
    writer.start(patient=True)
    assert "Input/output error" in str(writer.failure)
    faults.heal()
    eventually(lambda: writer.failure is None, "a disk that can be written")
    append(writer, request(1), response(1))
    writer.close(WAIT_SECONDS)
    assert findings(data) == []


def test_a_directory_that_is_gone(data: Path) -> None:
    """Removed under a running journal: an error for everyone, no crash, nothing in the place of it."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, request(1))
        while data.exists():  # the journal may still be closing its segment, under the hands of rmtree
            shutil.rmtree(data, ignore_errors=True)
        while (error := write(writer, appended(response(1)))) is None:
            pass
        assert "the directory has been removed" in str(error)
        assert writer.failure is not None
        assert not data.exists()


LOAD = """
import itertools, os, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.journals import appended, request, response, id_of
from extproc.core.effects import Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.journal import recovery
from extproc.journal.writer import Journal

data, boot = Path(sys.argv[1]), sys.argv[2]
recovery.recover(data, worker=0)
journal = Journal(data, worker=0, boot_id=boot, segment_bytes=20_000, free_space_floor_bytes=0)
journal.start()
out = os.dup(1)
numbers = itertools.count()
free = threading.Semaphore(50)

def told(kind, number):
    def done(error):
        if error is None:
            os.write(out, f"{kind} {id_of(number)}\\n".encode())
        free.release()
    return done

print("started", flush=True)
base = int(boot[1:]) * 1_000_000
for number in itertools.count(base):
    free.acquire()
    free.acquire()
    if number % 7:
        journal.submit([appended(request(number, b"x" * 300))], told("request", number))
    else:
        body = b"y" * 70_000
        journal.submit(
            [Spool(id_of(number), Direction.REQUEST, [body]), SpoolEnd(id_of(number), Direction.REQUEST),
             appended(request(number, body, file=True))], told("request", number))
    if number % 10:
        journal.submit([appended(response(number))], told("response", number))
    else:
        free.release()
"""


def _killed_under_load(data: Path, boot: int, tests: Path, after: int) -> list[tuple[str, str]]:
    """Run a writer until it has acknowledged so many, kill it, and return what it had acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, str(data), f"b{boot}", str(tests)], cwd="/", stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        heard = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        heard += process.stdout.readlines()
    whole = [line.decode().split() for line in heard if line.endswith(b"\n")]
    return [(kind, id) for kind, id in whole]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_9_under_load(data: Path) -> None:
    """Again and again, at other points: what was acknowledged is there, each exchange ends once, `verify` agrees."""
    rounds = int(os.environ.get("EXTPROC_TEST_KILLS", "6"))
    acknowledged: list[tuple[str, str]] = []
    for boot in range(rounds):
        acknowledged += _killed_under_load(data, boot, Path(__file__).parents[2], after=13 + 61 * boot % 1_300)
    recovery.recover(data)
    written = {(record["type"], record["id"]) for record in records(data) if "id" in record}
    assert [entry for entry in acknowledged if entry not in written] == []
    assert len(acknowledged) > 500
    assert findings(data) == []


ONE_BY_ONE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.journals import appended, id_of, journal, request, response, write

with journal(Path(sys.argv[1]), segment_bytes=1500) as writer:
    for number in range(12):
        for kind, record in (("request", request(number)), ("response", response(number))):
            if write(writer, appended(record)) is None:
                print(kind, id_of(number), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", [3, 4, 5, 8, 13, 21])
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "renameat", "ftruncate"])
def test_calls_that_fail_in_the_kernel(data: Path, call: str, when: int) -> None:
    """The same from outside: strace makes the Nth call and every fifth after it fail."""
    calls = "rename,renameat,renameat2" if call == "renameat" else call
    tests = str(Path(__file__).parents[2])
    inject = [f"--trace={calls}", f"--inject={calls}:error=EIO:when={when}+5"]
    program = (sys.executable, "-c", ONE_BY_ONE, str(data), tests)
    traced = syscalls.strace("-f", "-qq", "-o", "/dev/null", *inject, *program, cwd="/")
    assert traced.returncode == 0, traced.stderr.decode()
    recovery.recover(data)
    written = [f"{record['type']} {record['id']}" for record in records(data) if "id" in record]
    acknowledged = traced.stdout.decode().splitlines()
    assert len(acknowledged) > 12
    assert [entry for entry in acknowledged if written.count(entry) != 1] == []
    assert findings(data) == []


def test_unknown_types_pass(data: Path) -> None:
    """A record of a kind that a later version writes is kept and is nobody's trouble."""
    with journal(data) as writer:
        append(writer, encode({"type": "access", "id": id_of(1), "at": "2026"}))
    assert [record["type"] for record in records(data)] == ["segment", "access", "end"]
    assert findings(data) == []


def test_many_threads_submit(data: Path) -> None:
    """Whoever submits, from whatever thread, is answered once, and the numbers have no gap."""
    answers: queue.SimpleQueue[JournalError | None] = queue.SimpleQueue()

    def load(first: int) -> None:
        for number in range(first, first + 100):
            writer.submit([appended(request(number))], answers.put)
            writer.submit([appended(response(number))], answers.put)

    with journal(data, segment_bytes=50_000) as writer:
        threads = [threading.Thread(target=load, args=(first * 100,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answers.get(timeout=WAIT_SECONDS) for _ in range(1600)] == [None] * 1600
    with contextlib.suppress(queue.Empty):
        pytest.fail(f"an answer too many: {answers.get_nowait()}")
    seqs = [record["seq"] for record in records(data)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert findings(data) == []


def test_a_full_disk_says_so(data: Path, faults: Faults) -> None:
    """The error names the directory and the system's reason, for the operator."""
    with journal(data) as writer:
        faults.fail("write", error=errno.ENOSPC)
        error = write(writer, appended(request(1)))
        assert str(error) == f"{data / 'segments'}: the journal cannot be written: No space left on device"
        faults.heal()


def renamed(path: Path) -> None:
    """What logrotate does."""
    path.rename(path.with_name(path.name + ".1"))


def truncated(path: Path) -> None:
    """What logrotate does with `copytruncate`."""
    shutil.copy(path, path.with_name(path.name + ".1"))
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [renamed, truncated, Path.unlink])
def test_a_segment_that_is_taken_away_is_not_written_on(
    data: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Soon a new one is begun, and a line for the operator says which was taken; nothing that comes later is lost."""
    with journal(data, look_seconds=0.0) as writer:
        append(writer, request(1))
        harm(data / "segments" / "w0-b1-000001.jsonl.open")
        append(writer, response(1))
        append(writer, request(2), response(2))
    assert ids(records(data))[-2:] == [id_of(2), id_of(2)]
    assert segments(data)[-1] == "w0-b1-000002.jsonl"
    assert "w0-b1-000001.jsonl.open has been renamed, removed or cut by another program" in caplog.text


def test_a_name_that_is_used_up_stops_nobody(data: Path, faults: Faults) -> None:
    """A segment that could not be begun, nor removed again: the next attempt takes the next number."""
    with journal(data) as writer:
        append(writer, request(1))
        faults.fail("fdatasync", times=2)
        faults.fail("unlink", times=1)
        assert write(writer, appended(response(1))) is not None
        faults.heal()
        eventually(lambda: writer.failure is None, "a new segment")
        append(writer, request(2), response(2))
    recovery.recover(data)
    assert findings(data) == []
    assert sorted(ids(records(data, type="response"))) == [id_of(1), id_of(2)]
