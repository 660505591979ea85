"""`extproc follow`: over an old journal, beside one that grows, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.collector import Collector
from support.commands import PROGRAM, run
from support.recorded import Recording
from support.stack import eventually
from support.thorough import THOROUGH

from extproc.follow import checkpoint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a journal is recorded."""
    return tmp_path / "data"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that keeps what it gets."""
    with Collector() as running:
        yield running


def recorded(data: Path, count: int) -> list[str]:
    """So many exchanges with their access entries."""
    with Recording(data) as recording:
        ids = [recording.add() for _ in range(count)]
        for id in ids:
            recording.add_access(id)
    return ids


def test_spans_of_an_old_journal(data: Path, tmp_path: Path, collector: Collector) -> None:
    """Each once, with the ids of its record; again when asked again; and no position is kept."""
    ids = recorded(data, 20)
    for turn in (1, 2):
        done = run("follow", "--data-dir", data, "--since", "2025-01-01", "--otlp", collector.url, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"20 exchanges: 20 spans exported, 0 not sampled\n"
        assert sorted(collector.ids()) == sorted(ids * turn)
    assert len({span.span_id for span in collector.spans}) == 20
    assert collector.services == {"extproc"}
    assert not (data / checkpoint.DIRECTORY).exists()


def test_only_from_a_moment_on(data: Path, tmp_path: Path, collector: Collector) -> None:
    """By the time at which they began: one a minute."""
    ids = recorded(data, 10)
    since = "2025-11-21T03:17:00Z"  # the sixth
    done = run("follow", "--data-dir", data, "--since", since, "--otlp", collector.url, cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(collector.ids()) == sorted(ids[5:])


def test_a_collector_that_takes_nothing(data: Path, tmp_path: Path, collector: Collector) -> None:
    """It is said how many spans are missing; exit code 1."""
    recorded(data, 3)
    collector.status = grpc.StatusCode.INVALID_ARGUMENT
    done = run("follow", "--data-dir", data, "--since", "2025-01-01", "--otlp", collector.url, cwd=tmp_path)
    assert done.returncode == 1
    assert b"3 spans were not taken by the collector" in done.stderr


def test_beside_a_journal_that_grows(data: Path, tmp_path: Path, collector: Collector) -> None:
    """It goes on until a signal, serves metrics where it is told to, and keeps its position."""
    with Recording(data) as recording:
        command = [*PROGRAM, "follow", "--data-dir", str(data), "--otlp", collector.url, "--admin-port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        with process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            assert process.stdout.readline() == "following\n"
            id = recording.add()
            recording.add_access(id)
            eventually(lambda: collector.ids() == [id], "the span")
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert 'extproc_exchanges_total{outcome="ok"} 1.0' in answer.read().decode()
            process.send_signal(signal.SIGTERM)
            assert process.wait(150) == 0
    kept = checkpoint.load(data / checkpoint.DIRECTORY / checkpoint.FILE_NAME)
    assert kept is not None
    assert kept.pending == []


def test_killed_at_any_moment(data: Path, tmp_path: Path, collector: Collector) -> None:
    """The follower of `up`, several times: no exchange is lost, and what is repeated is the same span."""
    with Recording(data) as recording:
        ids = []
        for turn in range(10 if THOROUGH else 4):
            process = _follower(data, collector)
            with process:
                for _ in range(5):
                    ids.append(recording.add())
                    recording.add_access(ids[-1])
                if turn % 2:
                    eventually(lambda: set(collector.ids()) >= set(ids), "its spans")
                process.kill()
        with _follower(data, collector) as process:
            eventually(lambda: set(collector.ids()) == set(ids), "the rest")
            process.send_signal(signal.SIGTERM)
            assert process.wait(150) == 0
        before = len(collector.spans)
        with _follower(data, collector) as process:
            _command(process, "metrics")
            process.send_signal(signal.SIGTERM)
            assert process.wait(150) == 0
    assert len(collector.spans) == before, "after a clean stop nothing is repeated"
    assert len({span.span_id for span in collector.spans}) == len(ids)


def _follower(data: Path, collector: Collector) -> subprocess.Popen[bytes]:
    """The process as the supervisor starts it, ready."""
    from extproc.config import Config  # noqa: PLC0415

    process = subprocess.Popen(
        [PROGRAM[0], "-m", "extproc.follow.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "10"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(Config(data_dir=data, otlp=collector.url).to_json().encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ready\n"
    return process


def _command(process: subprocess.Popen[bytes], command: str) -> bytes:
    """What it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(command.encode() + b"\n")
    process.stdin.flush()
    while not (match := re.fullmatch(rb"metrics (\d+)\n", process.stdout.readline())):
        pass
    return process.stdout.read(int(match[1]))


def test_a_second_follower_is_refused(data: Path, tmp_path: Path) -> None:
    """It would export everything twice."""
    recorded(data, 1)
    with checkpoint.locked(data):
        done = run("follow", "--data-dir", data, cwd=tmp_path)
    assert done.returncode == 1
    assert b"another follower reads this directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--data-dir", "nowhere"), "there is no such data directory"),
        (("--data-dir", ".", "--since", "1h"), "name a collector with --otlp"),
        (("--since", "never"), "never"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    """Exit code 2, and what was expected."""
    done = run("follow", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr.decode()
