"""What a killed worker leaves behind is put in order, wherever the kill fell."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.journals import (
    Faults,
    Trace,
    abandon,
    access,
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
from support.thorough import THOROUGH

from extproc.core.effects import Spool
from extproc.core.events import Direction
from extproc.errors import JournalError
from extproc.history import verify
from extproc.journal import lines
from extproc.journal.lines import Line
from extproc.journal.recovery import Recovered, recover
from extproc.journal.segment import Name

FIRST = "w0-b1-000001"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def findings(data: Path) -> list[str]:
    """What `verify` says."""
    return [str(finding) for finding in verify.verify(data)]


def killed(data: Path, *written: bytes, segment_bytes: int = 1 << 20) -> Path:
    """A journal that was killed after these records; its last segment."""
    with journal(data, segment_bytes=segment_bytes) as writer:
        append(writer, *written)
        abandon(writer)
    return data / "segments" / segments(data)[-1]


def test_nothing_to_do(data: Path) -> None:
    """A journal that was closed, and a directory without one, are left alone."""
    assert recover(data) == Recovered()
    with journal(data) as writer:
        append(writer, request(1), response(1))
    before = (data / "segments" / segments(data)[0]).read_bytes()
    assert recover(data) == Recovered()
    assert (data / "segments" / segments(data)[0]).read_bytes() == before


def test_each_step_is_on_disk_before_the_next(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the torn end before that is cut off, what recovery writes before the segment has its closed name."""
    path = killed(data, request(1))
    with path.open("ab") as file:
        file.write(b'{"half a line')
    trace = Trace(monkeypatch)
    recover(data)
    monkeypatch.undo()
    assert [call for call in trace.calls if FIRST in call or call == "sync segments"] == [
        f"sync {FIRST}.torn.tmp",
        f"rename {FIRST}.torn.tmp {FIRST}.torn",
        "sync segments",
        f"ftruncate {FIRST}.jsonl.open",
        f"sync {FIRST}.jsonl.open",
        f"write {FIRST}.jsonl.open",  # the orphans
        f"sync {FIRST}.jsonl.open",
        f"write {FIRST}.jsonl.open",  # the footer
        f"sync {FIRST}.jsonl.open",
        f"rename {FIRST}.jsonl.open {FIRST}.jsonl",
        "sync segments",
    ]
    assert findings(data) == []


def test_open_exchanges_become_orphans(data: Path) -> None:
    """One for each without a terminal record, in its own series; the segment gets its footer and its name."""
    killed(data, request(1), request(2), response(1), request(3, type="open"), response(4))
    assert recover(data) == Recovered(1, [id_of(2), id_of(3)], [])
    orphans = records(data, type="orphan")
    assert [(orphan["id"], orphan["had"], orphan["of_boot"], orphan["of_worker"]) for orphan in orphans] == [
        (id_of(2), "request", "b1", 0),
        (id_of(3), "open", "b1", 0),
    ]
    assert records(data)[-1]["recovered"] is True
    assert segments(data) == [f"{FIRST}.jsonl"]
    assert findings(data) == []


def test_a_response_before_its_request_is_no_orphan(data: Path) -> None:
    """An exchange with a response record has ended, whether its request record came later, or in a later segment."""
    killed(data, response(1), request(1), response(2), request(2), response(3), segment_bytes=1)
    assert recover(data).orphans == []
    assert findings(data) == []


def test_a_request_in_a_closed_segment_is_not_forgotten(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its orphan is written, and the closed segment is not read for it."""
    last = killed(data, request(1), request(2), response(2), request(3), segment_bytes=1)
    read: list[str] = []
    real = lines.read_lines

    def watched(directory: Path, name: Name) -> Iterator[Line]:
        read.append(str(name))
        return real(directory, name)

    monkeypatch.setattr(lines, "read_lines", watched)
    assert recover(data).orphans == [id_of(1), id_of(3)]
    assert set(read) == {last.name}
    assert findings(data) == []


def test_a_damaged_head_costs_time_not_orphans(data: Path) -> None:
    """When the head of the last segment cannot be read, what was in flight is told from the one before."""
    last = killed(data, request(1), request(2), response(2), request(3), segment_bytes=1)
    raw = bytearray(last.read_bytes())
    raw[20] ^= 1
    last.write_bytes(raw + b'{"half')
    assert sorted(recover(data).orphans) == [id_of(1), id_of(3)]
    assert findings(data) == []


@pytest.mark.parametrize("tail", [b'{"type":"request","id', b"\0" * 4096, b"\xff\xfe\n\n\n{}\n", b"x" * 100_000, b"\n"])
def test_a_torn_tail_is_set_aside(data: Path, tail: bytes) -> None:
    """Half a line, zeros, garbage: copied to `.torn`, cut off, everything before it kept as it was."""
    path = killed(data, request(1), response(1))
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert recover(data).torn == [f"{FIRST}.torn"]
    torn = data / "segments" / f"{FIRST}.torn"
    assert torn.read_bytes() == tail
    assert stat.S_IMODE(torn.stat().st_mode) == 0o600
    assert (data / "segments" / f"{FIRST}.jsonl").read_bytes().startswith(good)
    assert findings(data) == []


def test_a_segment_cut_anywhere_in_its_last_4_kib(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` finds every cut of a closed segment; recovery of an open one keeps every whole line.

    At every 16th byte and around the ends of lines; at every byte with `make thorough`."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)
    with journal(data) as writer:
        for number in range(6):
            append(writer, request(number), response(number))
    closed = data / "segments" / f"{FIRST}.jsonl"
    raw = closed.read_bytes()
    assert len(raw) > 4096
    opened = data / "segments" / f"{FIRST}.jsonl.open"
    ends = {at + 1 for at, byte in enumerate(raw) if byte == 10}
    for cut in range(len(raw) - 4096, len(raw)):
        if not THOROUGH and cut % 16 and ends.isdisjoint({cut - 1, cut, cut + 1}):
            continue
        closed.write_bytes(raw[:cut])
        assert any(f"{FIRST}.jsonl" in finding for finding in findings(data)), cut
        closed.rename(opened)
        recover(data)
        whole = raw[: raw[:cut].rfind(b"\n") + 1]
        assert closed.read_bytes().startswith(whole), cut
        assert findings(data) == [], cut
        for torn in (data / "segments").glob("*.torn"):
            torn.unlink()


def test_every_byte_of_a_segment_flipped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` finds each flip, and recovery keeps every line but the one that it is in."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)
    with journal(data) as writer:
        append(writer, request(1), response(1), response(2))
    closed, opened = data / "segments" / f"{FIRST}.jsonl", data / "segments" / f"{FIRST}.jsonl.open"
    raw = closed.read_bytes()
    starts = [0, *(at + 1 for at, byte in enumerate(raw) if byte == 10)]
    for at in range(len(raw)):
        flipped = bytearray(raw)
        flipped[at] ^= 0xFF if at % 2 else 1
        closed.write_bytes(flipped)
        line = sum(start <= at for start in starts)
        found = findings(data)
        assert any(f"{FIRST}.jsonl:{line}: " in finding for finding in found), (at, found)
        closed.rename(opened)
        recover(data)
        kept = [record["seq"] for record in records(data)]
        assert [seq for seq in range(1, 5) if seq not in kept and seq != line] == [], at
        closed.unlink()
        for torn in (data / "segments").glob("*.torn"):
            torn.unlink()


def test_an_empty_segment_is_removed(data: Path) -> None:
    """Killed between making the file and writing its first line; and killed within the first line."""
    path = killed(data, request(1), response(1))
    empty = path.with_name("w0-b1-000002.jsonl.open")
    empty.write_bytes(b"")
    assert recover(data).segments == 1
    assert segments(data) == [f"{FIRST}.jsonl"]
    half = path.with_name("w0-b2-000001.jsonl.open")
    half.write_bytes(b'{"type":"segm')
    assert recover(data) == Recovered(0, [], ["w0-b2-000001.torn"])
    assert segments(data) == [f"{FIRST}.jsonl", "w0-b2-000001.torn"]
    assert findings(data) == []


def test_only_the_series_of_that_worker(data: Path) -> None:
    """A worker recovers what its predecessors left, never what belongs to another or to itself."""
    for worker, boot_id in ((0, "b1"), (0, "b2"), (1, "b3"), (0, "own")):
        with journal(data, worker=worker, boot_id=boot_id) as writer:
            append(writer, request(worker))
            abandon(writer)
    assert recover(data, worker=0, boot_id="own").segments == 2
    assert [name for name in segments(data) if name.endswith(".open")] == [
        "w0-own-000001.jsonl.open",
        "w1-b3-000001.jsonl.open",
    ]
    assert recover(data).segments == 2


def test_a_segment_in_use_is_not_touched(data: Path) -> None:
    """A predecessor that has not died yet still writes: recovery says so, and harms nothing."""
    with journal(data) as writer:
        append(writer, request(1))
        with pytest.raises(JournalError, match="still writing"):
            recover(data, wait=0)
        append(writer, response(1))
    assert findings(data) == []


def test_bodies_that_were_being_spooled_are_kept(data: Path) -> None:
    """With the exchange's orphan record, and nothing for `verify` to say."""
    with journal(data) as writer:
        assert write(writer, appended(request(1, type="open"), gate=False)) is None
        assert write(writer, Spool(id_of(1), Direction.REQUEST, [b"half", b" a body"])) is None
        assert write(writer, Spool(id_of(2), Direction.REQUEST, [b"no record yet"])) is None
        abandon(writer)
    assert recover(data).orphans == [id_of(1), id_of(2)]
    assert (data / "bodies" / f"{id_of(1)}.request").read_bytes() == b"half a body"
    assert (data / "bodies" / f"{id_of(2)}.request").read_bytes() == b"no record yet"
    assert findings(data) == []


def _torn(data: Path) -> None:
    path = killed(data, request(1), request(2), response(2), request(3), segment_bytes=2000)
    path.write_bytes(path.read_bytes() + b'{"type":"resp')


def _rotating(data: Path) -> None:
    """Killed after the new segment was made and before the old one got its footer."""
    killed(data, request(1), request(2), response(2), request(3), segment_bytes=1)
    *_, before_last, last = segments(data)
    path = data / "segments" / before_last
    raw = path.read_bytes()
    path.rename(path.with_suffix(".jsonl.open"))
    footer = raw[:-1].rfind(b"\n") + 1
    path.with_suffix(".jsonl.open").write_bytes(raw[:footer])
    assert last.endswith(".open")


def _footed(data: Path) -> None:
    """Killed after the footer was written and before the segment was renamed."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    (data / "segments" / f"{FIRST}.jsonl").rename(data / "segments" / f"{FIRST}.jsonl.open")


def _beginning(data: Path) -> None:
    """Killed after the new segment's file was made and before its first line was there."""
    path = killed(data, request(1), request(2), response(2), request(3))
    path.with_name("w0-b1-000002.jsonl.open").write_bytes(b'{"type":"segm')


@pytest.mark.parametrize("state", [_torn, _rotating, _footed, _beginning])
def test_recovery_may_die_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Callable[[Path], None]
) -> None:
    """Stopped before each of its system calls, and again at the next, it ends where an undisturbed one ends."""

    def prepared(name: str) -> Path:
        data = tmp_path / name
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        state(data)
        return data

    def outcome(data: Path) -> tuple[list[str], list[tuple[str, str]]]:
        return segments(data), [(record["type"], record.get("id", "")) for record in records(data)]

    undisturbed = prepared("undisturbed")
    recover(undisturbed)
    assert findings(undisturbed) == []
    faults = Faults(monkeypatch)
    for call in ("write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "open"):
        for first in range(1, 100):
            data = prepared("data")
            faults.fail(call, first=first)
            try:
                recover(data)
            except JournalError:
                stopped = True
            else:
                stopped = False
            faults.heal()
            recover(data)
            assert outcome(data) == outcome(undisturbed), (call, first)
            assert findings(data) == []
            if not stopped:
                break


def test_half_of_the_orphans_written(data: Path) -> None:
    """Killed in the middle of that write, ten times in a row: each exchange ends once."""
    path = killed(data, *(request(number) for number in range(10)))
    begun = path.read_bytes()
    recover(data)
    closed = path.with_name(f"{FIRST}.jsonl")
    whole = closed.read_bytes()
    for step in range(1, 11):
        cut = len(begun) + (len(whole) - len(begun)) * step // 11
        path.write_bytes(whole[:cut])
        closed.unlink()
        recover(data)
        whole = closed.read_bytes()
    assert sorted(ids(records(data, type="orphan"))) == [id_of(number) for number in range(10)]
    assert findings(data) == []


def test_an_access_entry_ends_nothing(data: Path) -> None:
    """An exchange that has Envoy's word and no terminal record is an orphan; one that has both is none."""
    killed(data, request(1), access(1), request(2), response(2), access(2), access(None), access(9))
    recover(data)
    orphans = [record["id"] for record in records(data) if record["type"] == "orphan"]
    assert orphans == [id_of(1)]
    assert findings(data) == []


def test_a_worker_that_comes_to_its_end_meanwhile(data: Path) -> None:
    """Its supervisor was killed and a new one recovers: it closes its segment itself, and that is no failure."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
        found: list[Recovered] = []
        waiting = threading.Thread(target=lambda: found.append(recover(data, wait=30)))
        waiting.start()
        while not _waits_for_a_lock(data):
            time.sleep(0.01)
    waiting.join()
    assert found == [Recovered()]
    assert [name.endswith(".jsonl") for name in segments(data)] == [True]
    assert findings(data) == []


def _waits_for_a_lock(data: Path) -> bool:
    """Whether recovery has opened the segment that is being written, besides its writer."""
    here = data / "segments" / segments(data)[0]
    opened = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            opened += each.readlink() == here
    return opened > 1
