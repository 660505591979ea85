"""The supervisor: starting, restarting, giving up, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.messages import head
from support.small_disk import fill, make_room, small_disk
from support.transports import Talk, connected

from extproc.config import Config
from extproc.core.effects import Append
from extproc.core.records import Request
from extproc.errors import ConfigError, JournalError, StackError
from extproc.history.reader import scan
from extproc.history.verify import verify
from extproc.journal.writer import Journal
from extproc.logs import RateLimit
from extproc.service.sidecar import workers as workers_
from extproc.service.sidecar.workers import MAX_DEATHS, Workers, log_info, log_warning

WHOLE_REQUEST = head("request", end=True, __method="GET", __path="/v1/models").SerializeToString()
HEADERS = head("request", __method="POST", __path="/v1/chat/completions").SerializeToString()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """One worker that does not wait for the disk."""
    return Config(data_dir=tmp_path / "data", durability="write", drain_seconds=0.5, free_space_floor_bytes=0)


async def until(what: Callable[[], Any]) -> None:
    """Wait until it is so."""
    while not what():  # noqa: ASYNC110 - processes and files raise no events
        await asyncio.sleep(0.01)


async def all_heard(workers: Workers) -> None:
    """Wait until each has told how it is."""
    await until(lambda: all("journal" in worker for worker in workers.readiness()[1]["workers"]))


def running_process(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.asynccontextmanager
async def started(config: Config) -> AsyncIterator[tuple[Workers, list[str]]]:
    """Workers that run, and the lines for the operator. Stopped at the end, and really gone."""
    lines: list[str] = []
    workers = Workers(config, lines.append)
    await workers.start()
    try:
        yield workers, lines
    finally:
        pids = [pid for pid in workers.pids if pid is not None]
        await workers.stop()
        assert not any(map(running_process, pids))


def story(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(run())


def answers(address: str) -> bool:
    """Whether a worker answers at the address as an ext_proc server does."""
    with connected(address) as channel:
        talk = Talk(channel)
        reply = talk.ask(HEADERS)
        talk.cancel()
        return bool(reply)


def test_all_listen_when_start_returns(config: Config) -> None:
    """One process and one address each; the data directory is made, and not for others."""

    async def run() -> None:
        async with started(dataclasses.replace(config, workers=3)) as (workers, lines):
            run_directory = config.data_dir / "run"
            assert workers.addresses == [f"unix:{run_directory}/extproc.sock{end}" for end in ("", ".1", ".2")]
            assert len(set(workers.pids)) == 3
            for address in workers.addresses:
                assert await asyncio.to_thread(answers, address)
            assert config.data_dir.stat().st_mode & 0o027 == 0
            assert lines == []

    story(run)


def test_readiness_is_every_part_of_every_worker(config: Config) -> None:
    """Each is named; one worker that is down is enough."""

    async def run() -> None:
        async with started(dataclasses.replace(config, workers=2)) as (workers, _):
            await all_heard(workers)
            well = {"up": True, "accepting": True, "journal": True}
            assert workers.readiness() == (True, {"workers": [{"worker": 0, **well}, {"worker": 1, **well}]})
            pid = workers.pids[1]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not workers.readiness()[0])
            await until(lambda: workers.readiness()[0])

    story(run)


def test_a_segment_that_another_program_renames(config: Config) -> None:
    """Not ready until it has its name again, and /readyz says which it is; so does a line, once."""

    async def run() -> None:
        async with started(config) as (workers, lines):
            await until(lambda: workers.readiness()[0])
            (segment,) = (config.data_dir / "segments").iterdir()
            moved = segment.rename(segment.with_name(f"{segment.name}.1"))
            await until(lambda: not workers.readiness()[0])
            assert workers.readiness()[1]["misplaced_segments"] == [moved.name]
            assert answers(workers.addresses[0])
            moved.rename(segment)
            await until(lambda: workers.readiness()[0])
            assert lines == [f"{moved} was renamed or removed by another program: see `extproc verify`"]

    story(run)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_worker_that_dies_is_started_again(config: Config, number: signal.Signals) -> None:
    """A line says which and why; the address is the same; the others do not notice."""

    async def run() -> None:
        async with started(dataclasses.replace(config, workers=2)) as (workers, lines):
            zero, one = workers.pids
            assert one is not None
            os.kill(one, number)
            await until(lambda: workers.pids[1] not in {None, one} and workers.readiness()[1]["workers"][1]["up"])
            assert lines == [f"worker 1 (pid {one}) was killed by {number.name}; starting it again"]
            assert workers.pids[0] == zero
            assert await asyncio.to_thread(answers, workers.addresses[1])

    story(run)


def test_a_worker_that_ends_by_itself_is_started_again(config: Config) -> None:
    """Exit code 0 is a death too, when nobody asked for it."""

    async def run() -> None:
        async with started(config) as (workers, lines):
            (pid,) = workers.pids
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
            await until(lambda: workers.pids[0] not in {None, pid})
            assert lines == [f"worker 0 (pid {pid}) ended with exit code 0; starting it again"]

    story(run)


def test_workers_that_die_too_often(config: Config) -> None:
    """Five deaths in a minute are borne; the sixth takes everything down, with the last reason."""

    async def run() -> None:
        async with started(config) as (workers, lines):
            pids: set[int] = set()
            pid = None
            for _ in range(MAX_DEATHS + 1):
                await until(lambda: workers.pids[0] not in {None, *pids} and workers.readiness()[0])
                pid = workers.pids[0]
                assert pid is not None
                pids.add(pid)
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(StackError, match=rf"died more than 5 times within a minute.*pid {pid}.*SIGKILL"):
                await workers.wait()
            assert len(lines) == MAX_DEATHS

    story(run)


def test_a_worker_that_cannot_start(config: Config) -> None:
    """`start` raises what the worker said, with its class; nothing is left running, and the lock is free."""

    async def run() -> None:
        in_the_way = config.data_dir.parent / "sock.1"
        in_the_way.touch()
        wrong = dataclasses.replace(config, workers=2, listen=f"unix:{config.data_dir.parent}/sock")
        workers = Workers(wrong)
        with pytest.raises(ConfigError, match=r"sock\.1 exists and is no socket"):
            await workers.start()
        assert workers.pids == [None, None]
        async with started(config):
            pass

    story(run)


HANGING = """
import os, pathlib, sys, time
from extproc.journal.segment import Segment
from extproc.service.sidecar import worker
from extproc.service.processor import Recorder
class Hanging:
    def __init__(self, owner, name, switch):
        self.switch, self.was = switch, getattr(owner, name)
        setattr(owner, name, lambda *arguments: self(*arguments))
    def __call__(self, *arguments):
        while self.switch.exists():
            time.sleep(0.01)
        return self.was(*arguments)
switches = pathlib.Path(sys.argv.pop(1)) / sys.argv[-1]
Hanging(os, "fdatasync", switches.with_suffix(".sync"))
Hanging(Segment, "append", switches.with_suffix(".write"))
Hanging(Recorder, "tick", switches.with_suffix(".loop"))
os._exit(worker.main())
"""


async def hangs(config: Config, begin: Callable[[int], None], end: Callable[[int], None]) -> None:
    """Let the second of two workers hang in some way, a request waiting, and go on again."""
    program = (sys.executable, "-c", HANGING, str(config.data_dir.parent))
    workers = Workers(dataclasses.replace(config, workers=2), program=program)
    await workers.start()
    try:
        await all_heard(workers)
        assert (workers.readiness()[0], workers.is_writable(), workers.worker_status()) == (True, True, [(True, 0)] * 2)
        pid = workers.pids[1]
        assert pid is not None
        begin(pid)
        with connected(workers.addresses[1]) as channel:
            asking = asyncio.create_task(asyncio.to_thread(Talk(channel).ask, WHOLE_REQUEST))
            await until(lambda: not workers.readiness()[0])
            assert (workers.is_writable(), workers.worker_status()) == (False, [(True, 0), (False, 0)])
            end(pid)
            assert await asking
            await until(lambda: workers.readiness()[0])
        assert (workers.is_writable(), workers.worker_status()) == (True, [(True, 0)] * 2)
    finally:
        await workers.stop()


def test_a_stopped_worker_is_not_well(config: Config) -> None:
    """It is there and says nothing, so that its last word does not count."""
    story(lambda: hangs(config, lambda pid: os.kill(pid, signal.SIGSTOP), lambda pid: os.kill(pid, signal.SIGCONT)))


@pytest.mark.parametrize("where", ["sync", "write", "loop"])
def test_a_worker_that_hangs_is_not_well(config: Config, where: str) -> None:
    """In a sync or a write of the disk, or in its loop, with nothing said and nothing failed."""
    switch = config.data_dir.parent / f"1.{where}"
    durable = dataclasses.replace(config, durability="fsync")
    story(lambda: hangs(durable, lambda _: switch.touch(), lambda _: switch.unlink()))


SILENT = """
import sys
sys.stdin.readline()
print("health {}", flush=True)
sys.stdin.read()
"""
FIRST_WELL = """
import pathlib, sys
sys.stdin.readline()
been_here = pathlib.Path(sys.argv[1])
if not been_here.exists():
    been_here.touch()
    print("ready nowhere", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_never_gets_ready(config: Config) -> None:
    """It is killed after a while, with a line that says which one and how long it was waited for."""

    async def run() -> None:
        workers = Workers(config, program=(sys.executable, "-c", SILENT), start_seconds=0.5)
        with pytest.raises(StackError, match=r"worker 0 \(pid \d+\) was not ready within 0.5 s, and was killed"):
            await workers.start()
        assert workers.pids == [None]

    story(run)


def test_a_worker_that_never_gets_ready_again(config: Config) -> None:
    """The same at a restart, with a line for the operator; nothing of it is left running."""
    program = (sys.executable, "-c", FIRST_WELL, str(config.data_dir.parent / "been-here"))
    lines: list[str] = []

    async def run() -> None:
        workers = Workers(config, lines.append, program=program, start_seconds=3.0)
        await workers.start()
        try:
            (pid,) = workers.pids
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: any("was not ready within 3 s, and was killed" in line for line in lines))
        finally:
            await workers.stop()
        assert workers.pids == [None]

    story(run)


def test_a_worker_that_dies_while_the_disk_is_full(config: Config, tmp_path: Path) -> None:
    """Its successor listens, says that it cannot write, and goes on by itself when there is room, as often as it is."""

    async def killed_while_full(workers: Workers, data_dir: Path, restarts: int) -> None:
        with connected(workers.addresses[0]) as channel:
            talk = Talk(channel)
            await asyncio.to_thread(talk.ask, WHOLE_REQUEST)
            fill(data_dir)
            (pid,) = workers.pids
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: workers.worker_status()[0][1] == restarts and workers.pids[0] is not None)
            await until(lambda: workers.readiness()[1]["workers"][0].get("journal") is False)
        assert await asyncio.to_thread(answers, workers.addresses[0])
        assert not workers.is_writable()
        make_room(data_dir)
        await until(lambda: workers.readiness()[0])

    async def run(data_dir: Path) -> None:
        async with started(dataclasses.replace(config, data_dir=data_dir)) as (workers, lines):
            for restarts in (1, 2):
                await killed_while_full(workers, data_dir, restarts)
            assert workers.failed_starts() == [0]
            assert [line.rpartition("; ")[2] for line in lines] == ["starting it again"] * 2

    with small_disk(tmp_path / "data", "1m") as data_dir:
        story(lambda: run(data_dir))
        assert [line.record["type"] for line in scan([data_dir])].count("orphan") == 2
        assert list(verify(data_dir)) == []


def test_a_start_on_a_full_disk(config: Config, tmp_path: Path) -> None:
    """It is no reason not to listen: what becomes of the traffic is for `on_audit_failure` to say."""

    async def run(data_dir: Path) -> None:
        here = dataclasses.replace(config, data_dir=data_dir)
        async with started(here) as (workers, _):
            with connected(workers.addresses[0]) as channel:
                await asyncio.to_thread(Talk(channel).ask, WHOLE_REQUEST)
        fill(data_dir)
        async with started(here) as (workers, _):
            assert await asyncio.to_thread(answers, workers.addresses[0])
            await until(lambda: not workers.readiness()[0])
            make_room(data_dir)
            await until(lambda: workers.readiness()[0])

    with small_disk(tmp_path / "data", "1m") as data_dir:
        story(lambda: run(data_dir))
        assert list(verify(data_dir)) == []


UNABLE = """
import pathlib, sys
sys.stdin.readline()
been_here = pathlib.Path(sys.argv[1])
number = len(been_here.read_text()) if been_here.exists() else 0
been_here.write_text("x" * (number + 1))
if number in (0, 8):
    print("ready nowhere", flush=True)
    sys.stdin.read()
print("failed JournalError data: no room", flush=True)
"""


def test_a_worker_for_which_there_is_no_room_is_tried_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: it is counted and told each time, and is no death of the sidecar."""
    monkeypatch.setattr(workers_, "PAUSE_SECONDS", (0.001,))
    program = (sys.executable, "-c", UNABLE, str(config.data_dir.parent / "been-here"))
    lines: list[str] = []

    async def run() -> None:
        workers = Workers(config, lines.append, program=program)
        await workers.start()
        try:
            (pid,) = workers.pids
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: workers.readiness()[1]["workers"][0]["up"] and workers.pids[0] != pid)
        finally:
            await workers.stop()
        assert workers.failed_starts() == [7]

    story(run)
    assert lines[1:] == ["worker 0 could not start, and is tried again in 0.001 s: data: no room"] * 7


STARTS = int(os.environ.get("EXTPROC_TEST_STARTS", "3"))


def test_every_start_comes_to_its_end(config: Config) -> None:
    """Of two workers at once both are heard, however often; `make kill-cycles` does it hundreds of times."""

    async def run() -> None:
        for _ in range(STARTS):
            async with started(dataclasses.replace(config, workers=2)) as (workers, lines):
                await all_heard(workers)
                assert lines == []

    story(run)


def test_a_second_sidecar_is_refused(config: Config) -> None:
    """The message names the directory and the process; the first one is not disturbed."""

    async def run() -> None:
        async with started(config) as (workers, _):
            with pytest.raises(JournalError, match=rf"data: another sidecar \(process {os.getpid()}\)"):
                await Workers(config).start()
            assert await asyncio.to_thread(answers, workers.addresses[0])

    story(run)


def test_a_sidecar_may_follow_another(config: Config) -> None:
    """Also one that was killed: its sockets, its lock and its open segments are in nobody's way."""

    async def run() -> None:
        for _ in range(2):
            async with started(config) as (workers, lines):
                assert await asyncio.to_thread(answers, workers.addresses[0])
                assert lines == []

    story(run)


def _ended_by(data_dir: Path) -> list[str | None]:
    records = (line.record for line in scan([data_dir]))
    return [record["closed"] for record in records if record["type"] == "response"]


def test_a_worker_that_there_is_no_longer_is_recovered_too(config: Config) -> None:
    """Four workers last time, one now: what the others left open is closed all the same."""
    config.data_dir.mkdir(mode=0o750)
    gone = Journal(config.data_dir, worker=3, boot_id="dead", durability="write")
    gone.start()
    gone.submit([Append(Request(id="unfinished"))], None)
    gone.close(10.0)

    async def run() -> None:
        async with started(config):
            pass

    story(run)
    orphans = [line.record["id"] for line in scan([config.data_dir]) if line.record["type"] == "orphan"]
    assert orphans == ["unfinished"]


def test_a_worker_that_dies_just_before_the_end_leaves_nothing_open(config: Config) -> None:
    """It is not started again to close its exchanges, so the supervisor does that itself."""

    async def run() -> None:
        async with started(config) as (workers, _):
            with connected(workers.addresses[0]) as channel:
                talk = Talk(channel)  # kept: a call that nobody holds is cancelled, and that would be its end
                await asyncio.to_thread(talk.ask, WHOLE_REQUEST)
                (pid,) = workers.pids
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await workers.stop()
                del talk

    story(run)
    assert list(verify(config.data_dir)) == []
    assert [line.record["type"] for line in scan([config.data_dir])][:3] == ["segment", "request", "orphan"]


def test_stop_waits_for_what_runs(config: Config) -> None:
    """The exchange that ends within drain_seconds ends by itself; only then does the worker."""

    async def run() -> None:
        patient = dataclasses.replace(config, drain_seconds=3600.0)
        async with started(patient) as (workers, _):
            with connected(workers.addresses[0]) as channel:
                talk = Talk(channel)
                await asyncio.to_thread(talk.ask, HEADERS)
                stopping = asyncio.create_task(workers.stop())
                await until(lambda: not workers.readiness()[0])
                talk.half_close()
                assert await asyncio.to_thread(talk.status) == grpc.StatusCode.OK
            await stopping

    story(run)
    assert _ended_by(config.data_dir) == ["closed"]


def test_a_second_stop_waits_no_longer(config: Config) -> None:
    """And what ran is on disk all the same, ended by the drain."""

    async def run() -> None:
        patient = dataclasses.replace(config, drain_seconds=3600.0)
        async with started(patient) as (workers, _):
            with connected(workers.addresses[0]) as channel:
                talk = Talk(channel)
                await asyncio.to_thread(talk.ask, HEADERS)
                stopping = asyncio.create_task(workers.stop())
                await until(lambda: not workers.readiness()[0])
                await workers.stop()
                await stopping
                assert await asyncio.to_thread(talk.status) == grpc.StatusCode.UNAVAILABLE

    story(run)
    assert _ended_by(config.data_dir) == ["drain"]


def test_a_worker_that_does_not_end_is_killed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """After drain_seconds and a few more."""
    monkeypatch.setattr(workers_, "LAST_SECONDS", 0.2)

    async def run() -> None:
        async with started(dataclasses.replace(config, drain_seconds=0.0)) as (workers, _):
            (pid,) = workers.pids
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)

    story(run)


SUPERVISOR = """
import asyncio, sys
from extproc.config import Config
from extproc.service.sidecar.workers import Workers

async def main():
    workers = Workers(Config.from_json(sys.argv[1]))
    await workers.start()
    print(*workers.pids, flush=True)
    await workers.wait()

asyncio.run(main())
"""


def test_workers_end_with_their_supervisor(config: Config) -> None:
    """It is killed with no chance to say anything; they write down what runs, and go."""
    patient = dataclasses.replace(config, workers=2, drain_seconds=3600.0)
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, patient.to_json()], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    with connected(patient.address(0)) as channel:
        talk = Talk(channel)
        talk.ask(HEADERS)
        process.kill()
        process.communicate()
        assert talk.status() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}

        async def run() -> None:
            await until(lambda: not any(map(running_process, pids)))
            async with started(config):
                pass

        story(run)
    assert _ended_by(config.data_dir) == ["drain"]


def test_housekeeping_failures_are_said(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is tried again; nothing else suffers."""
    monkeypatch.setattr(workers_, "HOUSEKEEPING_SECONDS", 0.01)
    rounds: list[dict[str, int]] = []

    def apply_retention(_directory: Path, *, may_go: object, **rules: int) -> None:
        assert callable(may_go)
        rounds.append(rules)
        if len(rounds) == 1:
            raise OSError("no such luck")

    monkeypatch.setattr("extproc.journal.retention.apply_retention", apply_retention)

    async def run() -> None:
        async with started(config) as (_, lines):
            await until(lambda: len(rounds) >= 2)
            assert lines == [f"housekeeping of {config.data_dir} failed, and will be tried again: no such luck"]

    story(run)
    assert rounds[0] == {"days": 30, "segments": 0, "bytes": 20 * 1024**3}


@pytest.mark.parametrize(("write", "level"), [(log_warning, "WARNING"), (log_info, "INFO")])
def test_of_many_lines_none_is_left_out(
    caplog: pytest.LogCaptureFixture, write: Callable[[str], None], level: str
) -> None:
    """The log's limit is for one event over and over; what `up` says of many edits are as many events."""
    caplog.set_level("INFO")
    caplog.handler.addFilter(limit := RateLimit())
    try:
        for number in range(100):
            write(f"live: edit {number} is 100 % there")
    finally:
        caplog.handler.removeFilter(limit)
    assert [record.getMessage() for record in caplog.records] == [
        f"live: edit {number} is 100 % there" for number in range(100)
    ]
    assert {record.levelname for record in caplog.records} == {level}
