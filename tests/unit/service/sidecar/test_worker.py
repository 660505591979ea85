"""One worker process, spoken to as the supervisor does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.messages import head
from support.transports import Talk, connected

from extproc.config import Config
from extproc.history import verify
from extproc.history.reader import scan

HEADERS = head("request", __method="POST", __path="/v1/chat/completions").SerializeToString()


class Worker:
    """A worker process and its pipes."""

    def __init__(self, config: Config, index: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "extproc.service.sidecar.worker", "--index", str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=config.data_dir,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.stdin.write(config.to_json() + "\n")
        self.stdin.flush()

    def line(self, word: str) -> str:
        """Wait for a line that begins with the word; the rest of it."""
        for line in self.stdout:
            first, _, rest = line.rstrip("\n").partition(" ")
            if first == word:
                return rest
        raise AssertionError(f"no {word}; exit code {self.end()}: {self.stderr()}")

    def end(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(150)

    def stderr(self) -> str:
        """All that it logged; to be called after the end."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill(self) -> None:
        """End it without a word, if it has not ended."""
        self.process.kill()
        self.process.wait(150)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(params=["http2", "aio"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Either transport, in a directory of its own."""
    return Config(data_dir=tmp_path, durability="write", transport=request.param, free_space_floor_bytes=0)


@pytest.fixture
def worker(config: Config) -> Iterator[Worker]:
    """A worker that was started; killed at the end if it is still there."""
    worker = Worker(config)
    yield worker
    worker.kill()


def _records(directory: Path, kind: str) -> list[dict[str, object]]:
    assert list(verify.verify(directory)) == []
    return [dict(line.record) for line in scan([directory]) if line.record["type"] == kind]


def test_ready_then_health(worker: Worker, config: Config) -> None:
    """The address as bound, then the named parts."""
    assert worker.line("ready") == f"unix:{config.data_dir}/run/extproc.sock"
    assert json.loads(worker.line("health")) == {"accepting": True, "journal": True}


def test_what_cannot_be_started_is_said(config: Config) -> None:
    """The exception's name and its text; exit code 1."""
    (config.data_dir / "run").touch()
    worker = Worker(config)
    assert worker.line("failed").startswith(f"ConfigError listen: {config.data_dir}/run/extproc.sock: ")
    assert worker.end() == 1
    assert worker.stderr() == ""
    worker.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(worker: Worker, config: Config, number: signal.Signals) -> None:
    """Exit code 0, the journal closed with its footer, nothing on stderr, the socket gone."""
    worker.line("ready")
    worker.process.send_signal(number)
    assert worker.end() == 0
    assert worker.stderr() == ""
    assert [path.suffix for path in (config.data_dir / "segments").iterdir()] == [".jsonl"]
    assert list((config.data_dir / "run").iterdir()) == []


def test_a_second_signal_still_writes_everything(worker: Worker, config: Config) -> None:
    """It ends the waiting, not the writing."""
    address = worker.line("ready")
    with connected(address) as channel:
        talk = Talk(channel)
        talk.ask(HEADERS)
        worker.process.send_signal(signal.SIGTERM)
        while json.loads(worker.line("health"))["accepting"]:
            pass
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0
        talk.half_close()
    (response,) = _records(config.data_dir, "response")
    assert response["closed"] == "drain"


def test_it_ends_with_its_supervisor(worker: Worker, config: Config) -> None:
    """The end of stdin: no waiting, since a new supervisor may start at once."""
    address = worker.line("ready")
    with connected(address) as channel:
        talk = Talk(channel)
        talk.ask(HEADERS)
        worker.stdin.close()
        assert worker.end() == 0
        talk.half_close()
    (response,) = _records(config.data_dir, "response")
    assert response["closed"] == "drain"


def test_a_killed_worker_s_exchanges_become_orphans(config: Config) -> None:
    """The next life of the same worker ends them, before it is ready."""
    first = Worker(config)
    address = first.line("ready")
    with connected(address) as channel:
        talk = Talk(channel)
        talk.ask(head("request", end=True, __method="GET", __path="/v1/models").SerializeToString())
        first.kill()
        talk.half_close()
    second = Worker(config)
    second.line("ready")
    second.stdin.close()
    assert second.end() == 0
    second.kill()
    (request,) = _records(config.data_dir, "request")
    (orphan,) = _records(config.data_dir, "orphan")
    assert orphan["id"] == request["id"]


def test_nothing_can_be_read_from_its_memory_files(worker: Worker) -> None:
    """No core dumps."""
    worker.line("ready")
    limits = Path(f"/proc/{worker.process.pid}/limits").read_text().splitlines()
    (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
    assert core[-3:-1] == ["0", "0"]


def test_harden() -> None:
    """No core dump by limit or by flag, and a umask that leaves nothing to others."""
    code = """
import ctypes, os, resource
from extproc.processes.harden import restrict_process
restrict_process()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), oct(os.umask(0)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "(0, 0) 0 0o77\n"


def test_only_aio_loads_grpcio(worker: Worker, config: Config) -> None:
    """A worker of ours has neither its code nor its memory, also once it has served a stream."""
    with connected(worker.line("ready")) as channel:
        talk = Talk(channel)
        talk.ask(HEADERS)
        talk.half_close()
        talk.status()
    loaded = Path(f"/proc/{worker.process.pid}/maps").read_text()
    assert ("cygrpc" in loaded) == (config.transport == "aio")
    assert "upb" in loaded


def test_a_worker_on_our_own_http2_loads_no_grpc() -> None:
    """gRPC is eight megabytes for every worker, and for nothing where there is no TLS."""
    code = "import sys, extproc.service.sidecar.worker; print(*{'grpc', 'uvloop', 'opentelemetry'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("installed", [True, False])
def test_aio_records_with_and_without_uvloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """uvloop is an extra: a worker that cannot import it serves on asyncio's own loop."""
    if not installed:
        (tmp_path / "uvloop.py").write_text("raise ImportError('no module named uvloop')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    data = tmp_path / "data"
    data.mkdir(0o700)
    worker = Worker(Config(data_dir=data, durability="write", transport="aio", free_space_floor_bytes=0))
    try:
        with connected(worker.line("ready")) as channel:
            talk = Talk(channel)
            talk.ask(HEADERS)
            talk.half_close()
            talk.status()
        assert ("uvloop" in Path(f"/proc/{worker.process.pid}/maps").read_text()) == installed
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0
    finally:
        worker.kill()
    assert [each["closed"] for each in _records(data, "response")] == ["closed"]
