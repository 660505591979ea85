"""Hours of the same: no process of the stack grows, but by what it needs to begin with.

EXTPROC_TEST_SOAK_MINUTES says how long; `make soak` runs half an hour, and prints each process's memory by the minute.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.stack import RunningStack, resident_bytes
from support.traffic import Servers, Traffic

from extproc.envoy.config import files

MINUTES = float(os.environ.get("EXTPROC_TEST_SOAK_MINUTES", "0.3"))
WARM_SHARE = 1 / 3
"""Of the time, in which modules are loaded, allocators find their size, and the first housekeeping is done."""
LOOK_SECONDS = 1.0
MOST_KIB_A_MINUTE = 100.0
NOISE_KIB = 4 * 1024
"""What allocators keep more or less between two looks; a short run can show no less."""


def processes(stack: RunningStack) -> dict[str, int]:
    """The processes of ours that live as long as the stack, by name."""
    follower = stack.process_of("follower")
    assert follower is not None
    workers = {f"worker {index}": pid for index, pid in stack.workers().items()}
    return {"supervisor": stack.process.pid, "follower": follower, **workers}


def kib(pids: Mapping[str, int]) -> dict[str, float]:
    """What each has in memory."""
    return {name: resident_bytes(pid) / 1024 for name, pid in pids.items()}


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 120)
def test_no_process_grows(tmp_path: Path) -> None:
    """With traffic, scrapes, health checks, an edited directory, and segments that end and are compressed."""
    shutil.copytree(Path(str(files.shipped())), tmp_path / "envoy", ignore=shutil.ignore_patterns("examples"))
    looks: list[tuple[float, dict[str, float]]] = []
    with Servers(2) as servers, contextlib.ExitStack() as running:
        backends = [word for port in servers.ports for word in ("--backend", f"http://127.0.0.1:{port}")]
        arguments = (*backends, "--workers", "2", "--envoy-concurrency", "1")
        stack = running.enter_context(RunningStack(tmp_path, *arguments, segment_bytes="1 MiB"))
        pids = processes(stack)
        with Traffic(stack.port, rate=60.0, streams=0.2) as traffic:
            began = time.monotonic()
            while (minutes := (time.monotonic() - began) / 60) < MINUTES:
                for path in ("metrics", "readyz"):
                    with urllib.request.urlopen(f"{stack.admin}/{path}", timeout=150) as answer:
                        answer.read()
                looks.append((minutes, kib(pids)))
                if len(looks) == 1 or int(minutes) > int(looks[-2][0]):
                    print(f"{minutes:5.1f} min", {name: f"{each:,.0f} KiB" for name, each in looks[-1][1].items()})
                time.sleep(LOOK_SECONDS)  # the time itself is what is waited for
            assert traffic.end() == []
        assert processes(stack) == pids, "one has died"
    warm = [each for each in looks if each[0] >= MINUTES * WARM_SHARE]
    times = [minutes for minutes, _ in warm]
    for name in pids:
        slope = statistics.linear_regression(times, [memory[name] for _, memory in warm]).slope
        print(f"{name}: {slope:+.1f} KiB a minute")
        assert slope * (times[-1] - times[0]) < max(NOISE_KIB, MOST_KIB_A_MINUTE * (times[-1] - times[0])), name
