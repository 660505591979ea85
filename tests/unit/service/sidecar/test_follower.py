"""The follower's process is kept going, asked, and stopped in time, whatever it does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from extproc.config import Config
from extproc.service.sidecar import follower
from extproc.service.sidecar.follower import FollowerProcess
from extproc.service.sidecar.workers import Workers

PROGRAM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
config = sys.stdin.readline()
print("ready", flush=True)
print('state {"lag_seconds": 1.5, "behind_bytes": 7, "index_behind_bytes": 9, "index_failures": 2}', flush=True)
for line in sys.stdin:
    if line == "metrics\\n":
        text = "x 1\\ny 2\\n"
        print(f"metrics {len(text)}\\n{text}", end="", flush=True)
"""
DEAF = PROGRAM.replace('if line == "metrics\\n":', "if False:").replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
BROKEN = "print('failed JournalError another one is there', flush=True); raise SystemExit(1)"


def tell(story: Callable[[FollowerProcess], Awaitable[Any]], program: str = PROGRAM) -> Any:
    """Run a story with a follower that runs this program."""

    async def run() -> Any:
        process = FollowerProcess(Config(), (sys.executable, "-c", program))
        await process.start()
        try:
            async with asyncio.timeout(150):
                return await story(process)
        finally:
            await process.stop()
            assert process.pid is None

    return asyncio.run(run())


async def until(ask: Callable[[], Any]) -> None:
    """Wait until it is so."""
    while not ask():  # noqa: ASYNC110 - what is waited for are other processes
        await asyncio.sleep(0.01)


def test_it_runs_and_is_asked() -> None:
    """Its state and its metrics, as often as one likes, also at the same time."""

    async def story(process: FollowerProcess) -> None:
        assert process.readiness() == {"follower": {"up": False, "lag_seconds": None}}
        await until(lambda: process.state)
        assert process.readiness() == {"follower": {"up": True, "lag_seconds": 1.5}}
        assert await asyncio.gather(*(process.metrics() for _ in range(5))) == [b"x 1\ny 2\n"] * 5

    tell(story)


def test_one_that_is_stopped_is_not_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last word does not count, and what it says of its lag grows with its silence."""
    monkeypatch.setattr(follower, "SILENT_SECONDS", 0.1)

    async def story(process: FollowerProcess) -> None:
        await until(lambda: process.state)
        await until(lambda: not process.up)
        assert process.lag_seconds is not None
        assert process.lag_seconds > 1.5

    tell(story)


def test_it_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, it comes back, and it is counted; meanwhile its metrics are empty."""
    monkeypatch.setattr(follower, "BACK_OFF_SECONDS", (0.2,))

    async def story(process: FollowerProcess) -> None:
        await until(lambda: process.up)
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: not process.up)
        assert await process.metrics() == b""
        await until(lambda: process.up)
        assert (process.restarts, process.pid != first) == (1, True)

    tell(story)


def test_one_that_cannot_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Is tried again, and the log says why."""
    monkeypatch.setattr(follower, "BACK_OFF_SECONDS", (0.01,))
    tell(lambda process: until(lambda: process.restarts >= 2), BROKEN)
    assert "could not start: another one is there" in caplog.text


def test_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs the scrape its metrics, and the stop no more than its limit."""
    monkeypatch.setattr(follower, "METRICS_SECONDS", 0.1)
    monkeypatch.setattr(follower, "STOP_SECONDS", 0.2)

    async def story(process: FollowerProcess) -> None:
        await until(lambda: process.up)
        assert await process.metrics() == b""

    tell(story, DEAF)


def test_it_gets_the_configuration() -> None:
    """As the workers do."""
    program = "import sys; print('state ' + sys.stdin.readline(), flush=True)\nfor line in sys.stdin: pass"

    async def story(process: FollowerProcess) -> None:
        await until(lambda: process.state)
        assert process.state["workers"] == 1

    tell(story, program)


def test_all_of_it_in_the_exposition(tmp_path: Path) -> None:
    """The follower's text, and ours behind it, down or not."""
    from extproc.service.sidecar.exposition import Exposition  # noqa: PLC0415

    (tmp_path / "segments").mkdir()
    for name in ("w0-b-000001.jsonl.zst", "w0-b-000002.jsonl", "w0-b-000003.jsonl.open"):
        (tmp_path / "segments" / name).write_bytes(b"12345")

    async def story(process: FollowerProcess) -> bytes:
        exposition = Exposition(tmp_path, 1000, Workers(Config(workers=2)), process)
        before = await exposition.text()
        assert b"extproc_follower_up 0.0\n" in before
        await until(lambda: process.state)
        return await exposition.text()

    text = tell(story).decode()
    assert text.startswith("x 1\ny 2\n")
    for line in (
        "extproc_follower_up 1.0",
        "extproc_follower_lag_seconds 1.5",
        "extproc_follower_behind_bytes 7.0",
        "extproc_index_behind_bytes 9.0",
        "extproc_index_failures_total 2.0",
        'extproc_worker_up{worker="1"} 0.0',
        'extproc_worker_restarts_total{worker="0"} 0.0',
        'extproc_journal_segments{state="closed"} 1.0',
        'extproc_journal_segments{state="compressed"} 1.0',
        'extproc_journal_segments{state="open"} 1.0',
        "extproc_journal_bytes 15.0",
        "extproc_journal_free_floor_bytes 1000.0",
        "extproc_exchanges_in_flight 0.0",
        'extproc_gate_wait_seconds_bucket{le="+Inf"} 0.0',
    ):
        assert f"\n{line}\n" in text
