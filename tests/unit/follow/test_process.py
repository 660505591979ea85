"""The follower as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.config import Config


@pytest.mark.parametrize(("collector", "loads"), [(None, False), ("http://127.0.0.1:9", True)])
def test_grpc_is_loaded_for_a_collector_alone(tmp_path: Path, collector: str | None, loads: bool) -> None:
    """A follower that exports no spans has none of what exports them in memory."""
    with subprocess.Popen(
        [sys.executable, "-m", "extproc.follow.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(Config(data_dir=tmp_path, otlp=collector).to_json().encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        assert ("cygrpc" in Path(f"/proc/{process.pid}/maps").read_text()) is loads
        process.terminate()
        assert process.wait() == 0
