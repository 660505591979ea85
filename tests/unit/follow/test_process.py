"""The follower as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.exchanges import made
from support.stack import eventually
from support.worlds import World

from extproc.config import Config
from extproc.follow import checkpoint, process
from extproc.incidents import backends
from extproc.telemetry.metrics import Metrics


@pytest.mark.parametrize(("collector", "loads"), [(None, False), ("http://127.0.0.1:9", True)])
def test_grpc_is_loaded_for_a_collector_alone(tmp_path: Path, collector: str | None, loads: bool) -> None:
    """A follower that exports no spans has none of what exports them in memory."""
    with subprocess.Popen(
        [sys.executable, "-m", "extproc.follow.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
    ) as follower:
        assert follower.stdin is not None
        assert follower.stdout is not None
        follower.stdin.write(Config(data_dir=tmp_path, otlp=collector).to_json().encode() + b"\n")
        follower.stdin.flush()
        assert follower.stdout.readline() == b"ready\n"
        assert ("cygrpc" in Path(f"/proc/{follower.pid}/maps").read_text()) is loads
        follower.terminate()
        assert follower.wait() == 0


def test_backends_that_the_journal_names_are_asked_where_that_is_set(tmp_path: Path) -> None:
    """What is known of one that does not answer any more says so, where incidents are looked for."""
    position = tmp_path / checkpoint.DIRECTORY / checkpoint.FILE_NAME
    position.parent.mkdir()
    kept = position.with_name(backends.FILE_NAME)
    upstream = "127.0.0.1:1"
    starts = backends.Kept(kept, 1)
    starts.answered(upstream, backends.Answer("vLLM", "0.11.0", 1.0, ["m"]), 2.0)
    starts.save()
    world = World()
    world.add(0, 1, upstream=upstream)
    watcher = process.watching(Config(data_dir=tmp_path, probe_seconds=1), Metrics((), {}), None, position)
    watcher.exchange(made(world.exchanges[0]))
    eventually(lambda: b'"silent":true' in kept.read_bytes(), "the note that it does not answer")
    watcher.close(20.0)
