"""Records joined into exchanges, whatever their order, and found again by id and by time."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.exchanges import present
from support.journals import (
    START_NS,
    WAIT_SECONDS,
    abandon,
    access,
    append,
    appended,
    id_of,
    journal,
    request,
    response,
    segments,
    write,
)

from extproc.core.effects import Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.core.record import encode, unseal
from extproc.core.records import Body
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.history import bodies, lookup, reader
from extproc.history.join import Exchange
from extproc.history.joiner import Joiner, Policy
from extproc.history.position import PositionedRecord
from extproc.history.window import Window
from extproc.journal import recovery, retention

SECOND = 1_000_000_000
START = datetime.fromtimestamp(START_NS // SECOND, UTC)
EVER = datetime(1970, 1, 1, tzinfo=UTC)

FIELDS = (
    "id started_at ended_at duration_ms outcome method path authority scheme client status upstream cluster route "
    "response_flags response_code_details request_id trace_id span_id worker boot_id seq request response llm protocol "
    "grpc_status parent_span_id held best_effort routing attempts failed_attempts access_log envoy integrity "
    "progress key class"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of the user's own."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def read(*directories: Path, **options: Any) -> list[Exchange]:
    """The exchanges, in the order in which they come."""
    return list(reader.exchanges(directories, **options))


def numbers(exchanges: list[Exchange]) -> list[int]:
    """Which exchanges these are."""
    return [int(exchange.id[-12:], 16) for exchange in exchanges]


def at(number: int) -> int:
    """When exchange `number` starts: one a minute."""
    return START_NS + number * 60 * SECOND


def timed(number: int) -> tuple[bytes, bytes]:
    """Both records of an exchange that started in its minute and took a second."""
    return request(number, at=at(number)), response(number, at=at(number))


# One exchange ------------------------------------------------------------------------------------------------


def test_the_fields_of_an_exchange(data: Path) -> None:
    """Those of the design, in its order, each there, null where nothing is known."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    (exchange,) = read(data)
    said = exchange.members()
    assert list(said) == FIELDS.split()
    assert exchange.started_at == "2026-10-26T07:33:20.000000Z"
    assert exchange.ended_at == "2026-10-26T07:33:21.000000Z"
    assert (exchange.duration_ms, exchange.outcome, exchange.status) == (1000.0, "ok", 200)
    assert (exchange.worker, exchange.boot_id, exchange.seq) == (0, "b1", 2)
    assert list(said["request"]) == [
        "bytes",
        "sha256",
        "chunks",
        "ended_by",
        "truncated",
        "content_type",
        "headers",
    ]
    assert list(said["response"])[-2:] == ["first_byte_ms", "last_byte_ms"]
    assert {"max_silence_ms", "silence_at_ms", "silence_at_byte"} <= set(said["response"])
    assert exchange.llm is None
    assert exchange.upstream is None
    assert not exchange.in_flight


def test_both_parts_of_what_the_dialects_read(data: Path) -> None:
    """Merged into one, errors of both told, and nothing that is not promised."""
    asked = {"api": "completions", "model": "m", "stream": True, "params": {}, "fingerprint": "f", "parse_error": "a"}
    told = {
        "api": "completions",
        "response_model": "n",
        "usage": {"x": 1},
        "done": True,
        "error": None,
        "parse_error": "b",
    }
    with journal(data) as writer:
        append(writer, request(1).replace(b'"llm":null', b'"llm":' + encode(asked)), response(1, llm=told))
    (exchange,) = read(data)
    assert exchange.members()["llm"] == {
        "api": "completions",
        "model": "m",
        "stream": True,
        "params": {},
        "response_model": "n",
        "response_id": None,
        "finish_reasons": None,
        "usage": {"x": 1},
        "ttft_ms": None,
        "output_chars": None,
        "fingerprint": "f",
        "parse_error": "a; b",
    }


@pytest.mark.parametrize(
    ("written", "outcome", "has_request", "has_response"),
    [
        ([request(1), response(1)], "ok", True, True),
        ([response(1), request(1)], "ok", True, True),
        ([request(1, type="open"), request(1), response(1)], "ok", True, True),
        ([response(1)], "ok", False, True),
        ([request(1)], None, True, False),
        ([request(1, type="open")], None, True, False),
    ],
)
def test_every_order_of_records(
    data: Path, written: list[bytes], outcome: str | None, has_request: bool, has_response: bool
) -> None:
    """One exchange comes of them, with what is known."""
    with journal(data) as writer:
        append(writer, *written)
        (exchange,) = read(data)
    assert exchange.outcome == outcome
    assert (exchange.request is not None, exchange.response is not None) == (has_request, has_response)
    assert exchange.started_at == "2026-10-26T07:33:20.000000Z"
    assert exchange.method == "POST"
    assert exchange.in_flight == (outcome is None)


def test_an_orphan(data: Path) -> None:
    """Its outcome says that the sidecar died; an unfinished request ended by that."""
    with journal(data) as writer:
        append(writer, request(1), request(2, type="open"))
        abandon(writer)
    recovery.recover(data)
    first, second = read(data)
    assert first.outcome == second.outcome == "sidecar_restart_orphan"
    assert (present(first.request).ended_by, present(second.request).ended_by) == ("end_of_stream", "orphan")
    assert first.ended_at is not None


def test_late_messages_replace_the_totals(data: Path) -> None:
    """What a `late` record says comes last, trailers included."""
    protocol = {"late": {"request.body": 3}, "duplicate_end_of_stream": 2}
    late = {"type": "late", "id": id_of(1), "at": "2026-10-26T07:33:22.000000Z", "protocol": protocol}
    with journal(data) as writer:
        append(writer, request(1), response(1), encode(late | {"trailers": {"response": [["x", "y"]]}}))
    (exchange,) = read(data)
    assert exchange.members()["protocol"] == protocol
    assert present(exchange.response).trailers == [("x", "y")]


def test_bodies(data: Path) -> None:
    """Text, bytes that are no text, a file, nothing: the exact bytes each time."""
    with journal(data) as writer:
        append(writer, request(1, "grüße\n".encode()), response(1, b"\xff\x00"), request(2, b""))
        assert write(writer, Spool(id_of(2), Direction.RESPONSE, [b"large"])) is None
        end = appended(response(2, b"large", file=True))
        assert write(writer, SpoolEnd(id_of(2), Direction.RESPONSE), end) is None
        append(writer, response(3))
    first, second, third = read(data)
    assert bodies.whole(first, "request") == "grüße\n".encode()
    assert bodies.whole(first, "response") == b"\xff\x00"
    assert bodies.whole(second, "request") == b""
    assert bodies.whole(second, "response") == b"large"
    assert bodies.whole(third, "request") is None
    (data / "bodies" / f"{id_of(2)}.response").unlink()
    with pytest.raises(JournalError, match="No such file"):
        bodies.whole(second, "response")


@pytest.mark.parametrize("name", ["../segments/x", "bodies/../../etc/passwd", "/etc/passwd", ""])
def test_a_body_s_name_cannot_lead_elsewhere(data: Path, name: str) -> None:
    """A record that was tampered with reads no other file."""
    with pytest.raises(JournalError, match="a name that is none"):
        list(bodies.pieces_of(Body(file=name), data))


# Many --------------------------------------------------------------------------------------------------------


def test_newest_last(data: Path) -> None:
    """By the time at which they started, not at which they ended; those in flight at the end."""
    with journal(data) as writer:
        append(writer, timed(0)[0], timed(1)[0], timed(1)[1], timed(2)[0], timed(0)[1], *timed(3))
        assert numbers(read(data)) == [0, 1, 3, 2]
        append(writer, timed(2)[1])
    assert numbers(read(data)) == [0, 1, 2, 3]


def test_several_workers_boots_and_directories(tmp_path: Path) -> None:
    """Merged by time, whatever file they stand in."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir(mode=0o700)
    for number in range(12):
        directory = directories[number % 2]
        with journal(directory, worker=number % 3, boot_id=f"b{number}") as writer:
            append(writer, *timed(number))
    assert numbers(read(*directories)) == list(range(12))


def test_more_than_memory_is_meant_to_hold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window slides: all come, nearly in order, none twice, and no more than a window is held."""
    with journal(data, durability="write", segment_bytes=20_000) as writer:
        for number in range(200):
            append(writer, *timed(number))
    joiners: list[Joiner] = []
    windows: list[Window] = []
    held: list[int] = []

    class WatchedJoiner(Joiner):
        """Notes how many exchanges are in memory."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            joiners.append(self)

        def add(self, found: PositionedRecord) -> None:
            super().add(found)
            held.append(len(joiners[0]._pending) + len(windows[0]))

    class WatchedWindow(Window):
        """The other place where they are."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            windows.append(self)

    monkeypatch.setattr(reader, "Joiner", WatchedJoiner)
    monkeypatch.setattr(reader, "Window", WatchedWindow)
    assert numbers(read(data, policy=Policy(most_in_order=10))) == list(range(200))
    assert 10 <= max(held) <= 12


@pytest.mark.parametrize("compressed", [False, True])
def test_since_and_until(data: Path, compressed: bool) -> None:
    """By the time of the start: from `since` on, before `until`; the same from compressed segments."""
    now = START_NS
    with journal(data, segment_bytes=2000, clock=lambda: now) as writer:
        for number in range(20):
            now = at(number)
            append(writer, *timed(number))
    if compressed:
        retention.compress_closed(data)
    since, until = START + timedelta(minutes=5), START + timedelta(minutes=8)
    assert numbers(read(data, since=since)) == list(range(5, 20))
    assert numbers(read(data, until=until)) == list(range(8))
    assert numbers(read(data, since=since, until=until)) == [5, 6, 7]


def test_segments_before_since_are_not_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written last before that time cannot hold anything that started after it."""
    with journal(data, segment_bytes=1) as writer:
        for number in range(10):
            append(writer, *timed(number))
    for position, name in enumerate(segments(data)):
        os.utime(data / "segments" / name, ns=(at(position), at(position)))
    opened: list[str] = []
    real = os.open

    def watched(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(Path(path).name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    read(data, since=START + timedelta(minutes=15))
    assert "w0-b1-000010.jsonl" not in opened
    assert "w0-b1-000020.jsonl" in opened


def test_damage_costs_only_itself(data: Path) -> None:
    """A flipped byte, a line end that is gone, half a line: all other exchanges are there."""
    with journal(data) as writer:
        for number in range(6):
            append(writer, *timed(number))
    path = data / "segments" / segments(data)[0]
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b"POST", b"PAST")
    path.write_bytes(b"\n".join(lines[:7]) + b"#" + b"\n".join(lines[7:-2]) + b'\n{"half')
    found = read(data)
    assert numbers(found) == [0, 1, 2, 3, 4, 5]
    assert [exchange.request is None for exchange in found] == [False, True, False, False, False, False]


def test_a_segment_that_vanishes_is_passed_over(data: Path) -> None:
    """Retention may delete what is being read."""
    with journal(data, segment_bytes=1) as writer:
        append(writer, *timed(0), *timed(1))
    exchanges = reader.exchanges([data])
    for name in segments(data)[2:]:
        (data / "segments" / name).unlink()
    assert numbers(list(exchanges)) == [0]


def test_lines_that_are_void(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written again in the next segment comes once."""
    with journal(data) as writer:
        append(writer, request(1))
        real = os.fdatasync
        failed: list[int] = []

        def fails_once(fd: int) -> None:
            if not failed:
                failed.append(fd)
                raise OSError(5, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fdatasync", fails_once)
        monkeypatch.setattr(os, "ftruncate", lambda fd, size: None)
        append(writer, response(1))
        assert [line.record["type"] for line in reader.scan([data])] == ["segment", "request", "segment", "response"]
        assert numbers(read(data)) == [1]


# Finding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_find(data: Path, compressed: bool) -> None:
    """By the whole id, by a beginning that is the only one, by one that is not, by none."""
    with journal(data, segment_bytes=2000) as writer:
        for number in range(20):
            append(writer, *timed(number))
    if compressed:
        retention.compress_closed(data)
    wanted = id_of(7, at(7))
    assert numbers(lookup.find([data], wanted)) == [7]
    assert numbers(lookup.find([data], wanted.upper())) == [7]
    assert numbers(lookup.find([data], wanted[:13])) == [7]
    assert len(lookup.find([data], wanted[:4])) == 20
    assert lookup.find([data], "ffff") == []
    assert lookup.find([data], id_of(99)) == []
    assert bodies.whole(lookup.find([data], wanted)[0], "request") == b"{}"


@pytest.mark.parametrize("compressed", [False, True])
def test_find_by_what_others_call_it(data: Path, compressed: bool) -> None:
    """By the end of its id, Envoy's request id, the id in the response, in whatever segment each of them stands."""
    with journal(data, segment_bytes=2000) as writer:
        for number in range(20):
            fields = json.loads(timed(number)[0]) | {"request_id": f"{number:08}-uuid"}
            append(writer, encode(fields))
            append(writer, response(number, at=at(number), llm={"response_id": f"chatcmpl-{number}"}))
        append(writer, response(99, at=at(99), llm={"response_id": "chatcmpl-3"}))
    if compressed:
        retention.compress_closed(data)
    assert numbers(lookup.find([data], id_of(7, at(7))[-12:])) == [7]
    assert numbers(lookup.find([data], "00000007-uuid")) == [7]
    assert numbers(lookup.find([data], "0_chatcmpl-7-0123abcd")) == [7]
    assert sorted(numbers(lookup.find([data], "chatcmpl-3"))) == [3, 99]
    assert lookup.find([data], "chatcmpl-77") == []
    (found,) = lookup.find([data], "00000007-uuid")
    assert (found.in_flight, bodies.whole(found, "request")) == (False, b"{}")


def test_find_looks_only_where_it_can_be(data: Path) -> None:
    """An id tells its time: segments that ended before it, and those begun long after, are not read."""
    now = START_NS
    with journal(data, segment_bytes=1, clock=lambda: now) as writer:
        for number in range(10):
            now = at(number * 10)
            append(writer, *timed(number * 10))
    for name in segments(data):
        head = unseal((data / "segments" / name).read_bytes().splitlines()[0])
        os.utime(data / "segments" / name, (datetime.fromisoformat(head["at"]).timestamp(),) * 2)
    read_through: list[str] = []
    assert numbers(lookup.find([data], id_of(50, at(50)), read_through.append)) == [50]
    assert 0 < len(read_through) <= 5


def test_find_in_flight(data: Path) -> None:
    """An exchange that has not ended is found as well."""
    with journal(data) as writer:
        append(writer, request(1))
        (exchange,) = lookup.find([data], id_of(1))
        assert exchange.in_flight


def test_the_latest(data: Path) -> None:
    """Of those that have ended and are wanted; one of this minute before older ones, an older one when it must be."""
    lately = time.time_ns() - 30_000_000_000

    def latest(unwanted: str = "") -> str:
        found = reader.latest([data], lambda exchange: exchange.id != unwanted)
        assert found is not None
        return str(found.id)

    with journal(data) as writer:
        append(writer, *timed(1), *timed(2))
        assert latest() == id_of(2, at(2))
        append(writer, request(3, at=lately), response(3, at=lately), request(4, at=lately))
        assert latest() == id_of(3, lately)
        assert latest(id_of(3, lately)) == id_of(2, at(2))
    assert reader.latest([data], lambda exchange: False) is None


# In flight at a moment -----------------------------------------------------------------------------------------


def test_in_flight_at_a_moment(data: Path) -> None:
    """Those that had started and not ended, from the records of every segment that matters."""
    now = START_NS
    with journal(data, segment_bytes=1, clock=lambda: now) as writer:
        append(writer, timed(0)[0])
        for number in range(1, 30):
            now = at(number)
            append(writer, *timed(number))
        append(writer, timed(40)[0])

        def at_minute(minutes: float, window: float = 0) -> list[int]:
            moment = START + timedelta(minutes=minutes)
            return numbers(list(reader.in_flight([data], moment, moment + timedelta(minutes=window))))

        assert at_minute(20) == [20, 0]
        assert at_minute(20.01) == [20, 0]
        assert at_minute(20.5) == [0]
        assert at_minute(20.5, 2) == [21, 22, 0]
        assert at_minute(41) == [0, 40]
        assert at_minute(-1) == []


# Following -----------------------------------------------------------------------------------------------------


class Follower:
    """Follows in a thread; the numbers of the exchanges in the order in which they came."""

    def __init__(self, *directories: Path) -> None:
        self.seen: list[int] = []
        self._changed = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._run, args=(directories,))
        self._thread.start()

    def _run(self, directories: tuple[Path, ...]) -> None:
        for exchange in reader.ending(directories, since=EVER, stop=lambda: self._stop):
            with self._changed:
                self.seen.append(int(exchange.id[-12:], 16))
                self._changed.notify_all()

    def wait_for(self, *numbers: int) -> None:
        """Until these have come, in whatever order."""
        with self._changed:
            came = self._changed.wait_for(lambda: set(numbers) <= set(self.seen), WAIT_SECONDS)
            assert came, f"{numbers} did not come, {self.seen} did"

    def stop(self) -> list[int]:
        self._stop = True
        self._thread.join()
        return self.seen


def test_following_a_growing_journal(data: Path) -> None:
    """Each exchange once, as it ends: through rotation, compression, a crash, recovery, and a new boot."""
    with journal(data, segment_bytes=1500) as writer:
        append(writer, *timed(0))  # without an access entry, which is waited for a little
        follower = Follower(data)
        try:
            follower.wait_for(0)
            for number in range(1, 20):
                append(writer, *timed(number), access(number, at=at(number)))
                follower.wait_for(number)
                if number == 10:
                    retention.compress_closed(data)
            append(writer, response(50, at=at(50)))  # an answer without a request
            follower.wait_for(50)
            append(writer, response(51, at=at(51)), request(51, at=at(51)), timed(52)[0])
            follower.wait_for(51)
            abandon(writer)
            path = data / "segments" / segments(data)[-1]
            path.write_bytes(path.read_bytes() + b'{"type":"resp')
            recovery.recover(data)
            follower.wait_for(52)
            with journal(data, boot_id="b2") as second, journal(data, boot_id="b3", worker=1) as third:
                append(second, *timed(60))
                append(third, *timed(61))
                follower.wait_for(60, 61)
        finally:
            seen = follower.stop()
    assert sorted(seen) == [*range(20), 50, 51, 52, 60, 61]


def test_following_past_a_segment_that_was_set_aside(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that were cut off behind the reader and written again do not come twice."""
    with journal(data) as writer:
        append(writer, *timed(0), timed(1)[0])
        follower = Follower(data)
        try:
            follower.wait_for(0)
            real = os.fdatasync
            failed: list[int] = []

            def fails_once(fd: int) -> None:
                if not failed:
                    failed.append(fd)
                    follower.wait_for(1)  # it has read the line before the sync of it fails
                    raise OSError(5, "Input/output error")
                real(fd)

            monkeypatch.setattr(os, "fdatasync", fails_once)
            append(writer, timed(1)[1], *timed(2))
            follower.wait_for(2)
        finally:
            seen = follower.stop()
    assert seen == [0, 1, 2]


# Envoy's access entries --------------------------------------------------------------------------------------


def test_an_access_entry_of_another_worker(data: Path) -> None:
    """It is joined across the segments of the workers, by the list, by id, and when following."""
    with journal(data) as writer:
        append(writer, request(1), response(1))
    with journal(data, worker=1, boot_id="other") as writer:
        append(writer, access(1, response_flags=["DC"]))
    for found in (read(data), lookup.find([data], id_of(1)[:-2])):
        assert [(exchange.access_log, exchange.response_flags) for exchange in found] == [("received", ["DC"])]
    followed = reader.ending([data], since=EVER)
    assert next(iter(followed)).access_log == "received"


def test_entries_without_an_exchange_make_none(data: Path) -> None:
    """Neither one that names no exchange nor one that names an exchange of which nothing is recorded."""
    with journal(data) as writer:
        append(writer, access(None), access(7), request(1), response(1))
    assert numbers(read(data)) == [1]
    assert lookup.find([data], id_of(7)) == []
    assert list(reader.in_flight([data], START, START + timedelta(days=1))) == read(data)


def test_an_exchange_waits_for_its_entry(data: Path) -> None:
    """More exchanges than are held back for order end before the entry comes; it is still joined."""
    with journal(data) as writer:
        append(writer, *(record for number in range(1, 11) for record in (request(number), response(number))))
        append(writer, *(access(number) for number in range(1, 11)))
    assert {exchange.access_log for exchange in read(data, policy=Policy(most_in_order=3))} == {"received"}


def test_an_entry_that_never_comes_holds_nothing_up(data: Path) -> None:
    """After its time by the records, or beyond what memory may hold, an exchange comes without it."""
    with journal(data) as writer:
        append(writer, *(record for number in range(1, 30) for record in timed(number)))
        append(writer, *(record for number in range(40, 50) for record in (request(number), response(number))))
    found = read(data, policy=Policy(most_in_order=2, most_waiting=4))
    assert sorted(numbers(found)) == [*range(1, 30), *range(40, 50)]
    assert {exchange.access_log for exchange in found} == {"missing"}


# Entries that are all there is -------------------------------------------------------------------------------

NO_ROUTE: dict[str, Any] = {"upstream": None, "status": 404, "response_code_details": "route_not_found"}
HUNG: dict[str, Any] = {
    "upstream": None,
    "status": 504,
    "response_code_details": "ext_proc_error_per-message_timeout_exceeded",
    "request_id": "0193c0de-request",
}


def begun_as(number: int, request_id: str) -> list[bytes]:
    """An exchange that was cut off, and that Envoy knows by this id."""
    beginning = {**unsealed(request(number)), "request_id": request_id}
    end = {**unsealed(response(number)), "status": None, "response": None, "closed": "cancelled"}
    return [encode(beginning), encode(end)]


def unsealed(record: bytes) -> dict[str, Any]:
    """The fields of a record."""
    fields: dict[str, Any] = json.loads(record)
    return fields


def test_what_envoy_ended_before_the_recorder_is_listed(data: Path) -> None:
    """In its place by time, as the entry tells it, and found by its id, the end of that, and Envoy's."""
    with journal(data) as writing:
        append(writing, request(1), response(1), access(1))
        append(
            writing,
            access(None, at=START_NS + SECOND, request_id="r-404-r-404", method="GET", path="/none", **NO_ROUTE),
        )
        append(writing, request(2, at=START_NS + 2 * SECOND), response(2, at=START_NS + 2 * SECOND))
    first, alone, last = read(data)
    assert [first.id, last.id] == [id_of(1), id_of(2, START_NS + 2 * SECOND)]
    assert list(alone.members()) == list(first.members())
    assert (alone.outcome, alone.class_, alone.status) == ("local_reply", "local", 404)
    assert (alone.method, alone.path, alone.access_log) == ("GET", "/none", "received")
    assert (alone.started_at, alone.duration_ms) == (timestamp(START_NS + SECOND), 1000.0)
    assert (alone.request, alone.response, alone.trace_id) == (None, None, None)
    for name in (alone.id, alone.id[:13], alone.id[-8:], "r-404-r-404"):
        assert [exchange.id for exchange in lookup.find([data], name)] == [alone.id], name
    during = START + timedelta(seconds=1.5)
    assert [each.id for each in reader.in_flight([data], during)] == [alone.id]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_an_entry_whose_exchange_is_there_is_not_listed_twice(data: Path, order: tuple[int, ...]) -> None:
    """The recorder hung, and wrote the exchange down when it went on: one exchange, under the recorder's id."""
    records = [*begun_as(1, HUNG["request_id"]), access(None, **HUNG)]
    with journal(data) as writing:
        append(writing, *(records[index] for index in order))
    for found in (read(data), lookup.find([data], id_of(1)), lookup.find([data], HUNG["request_id"])):
        (exchange,) = found
        assert (exchange.id, exchange.outcome) == (id_of(1), "recorder_failed")
        assert exchange.access_log == "received"


def test_an_exchanges_own_entry_stands_before_one_that_is_like_it(data: Path) -> None:
    """A client may send the same request id again, where Envoy lets it choose: that takes nothing from the exchange."""
    with journal(data) as writing:
        beginning, end = begun_as(1, HUNG["request_id"])
        append(
            writing,
            beginning,
            access(None, **HUNG),
            end,
            access(1, response_code_details="downstream_remote_disconnect"),
        )
    (exchange,) = read(data)
    assert exchange.outcome == "client_cancel_before_first_byte"


def test_ten_thousand_of_them(data: Path) -> None:
    """A scanner's requests are each listed once, in order, and cost no more than others."""
    with journal(data) as writing:
        entries = [
            access(None, at=START_NS + number * SECOND, request_id=f"{number}", **NO_ROUTE) for number in range(10_000)
        ]
        assert write(writing, *map(appended, entries)) is None
    found = read(data)
    assert len({exchange.id for exchange in found}) == 10_000
    assert [exchange.started_at for exchange in found] == sorted(exchange.started_at for exchange in found)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("minutes", [5, 50])
def test_a_clock_that_was_set_back_hides_nothing(data: Path, killed: bool, minutes: int) -> None:
    """What was recorded before is found by the time that it has, in an open segment, a closed and a recovered one."""
    now = time.time_ns()
    hour = 3_600_000_000_000
    clock = now + 2 * hour
    since = datetime.fromtimestamp((clock - minutes * 60_000_000_000) / 1e9, UTC)
    with journal(data, clock=lambda: clock) as writer:
        append(writer, request(1, at=clock), response(1, at=clock))
        clock = now
        append(writer, request(2, at=clock), response(2, at=clock))
        assert [each.id for each in reader.exchanges([data], since=since)] == [id_of(1, now + 2 * hour)]
        if killed:
            abandon(writer)
    if killed:
        recovery.recover(data)
    assert [each.id for each in reader.exchanges([data], since=since)] == [id_of(1, now + 2 * hour)]
