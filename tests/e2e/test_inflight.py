"""What is in flight, while it is: on which backend, how far it has come, for how long it has been silent."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import run
from support.stack import RunningStack, eventually
from support.streams import EVENT, Backend, ask


@pytest.fixture
def backend() -> Iterator[Backend]:
    """The backend of both stories."""
    with Backend() as backend:
        yield backend
        backend.release.set()


def inflight(stack: RunningStack, *arguments: str) -> dict[int, Any]:
    """What `extproc inflight --json` says, by the number of events."""
    done = run("inflight", "--json", "--data-dir", stack.data_dir, *arguments, cwd=stack.directory)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {int(each["path"].partition("events=")[2]): each for each in found}


def seen(stack: RunningStack, *arguments: str) -> dict[int, Any]:
    """The three exchanges, once the events of each have passed."""
    want = {0: None, 2: 2 * len(EVENT), 5: 5 * len(EVENT)}

    def all_here() -> dict[int, Any] | None:
        found = inflight(stack, *arguments)
        here = {number: (each["progress"] or {}).get("response_bytes") or None for number, each in found.items()}
        return found if here == want else None

    return eventually(all_here, "three exchanges in flight")


@pytest.mark.timeout(180)
def test_what_is_in_flight(tmp_path: Path, backend: Backend) -> None:
    """One that waits for its first token, and streams that are silent: state, backend, bytes, and since when."""
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        connections = [ask(stack, f"events={number}") for number in (0, 2, 5)]
        found = seen(stack)
        address = backend.url.removeprefix("http://")
        waiting, streaming = found[0], found[5]
        assert (waiting["state"], waiting["upstream"], waiting["cluster"]) == ("waiting", None, "llm")
        assert (streaming["upstream"], streaming["cluster"], streaming["status"]) == (address, "llm", 200)
        assert (streaming["model"], streaming["method"]) == ("demo", "POST")
        assert streaming["response_chunks"] >= 1
        assert streaming["first_token_ms"] > 0
        assert streaming["request_bytes"] == waiting["request_bytes"] == 44
        eventually(lambda: inflight(stack)[5]["state"] == "silent", "silence")
        now = inflight(stack, "--upstream", address)
        assert sorted(now) == [2, 5]
        assert now[5]["silent_ms"] >= 5000
        backend.release.set()
        for connection in connections:
            connection.close()
        eventually(lambda: inflight(stack) == {}, "the end of all")
        assert stack.stop() == 0
        assert stack.findings() == []
        assert list((stack.data_dir / "live").iterdir()) == []


@pytest.mark.timeout(180)
def test_after_a_kill(tmp_path: Path, backend: Backend) -> None:
    """A worker dies by kill -9: backend, status and bytes of each exchange stand in what recovery writes of it."""
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        connections = [ask(stack, f"events={number}") for number in (0, 2, 5)]
        before = seen(stack)
        worker = stack.workers()[0]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: stack.workers().get(0) not in {None, worker}, "another worker")
        eventually(lambda: all(each["outcome"] for each in inflight(stack, "--at-crash").values()), "their ends")
        after = seen(stack, "--at-crash")
        for number, exchange in after.items():
            assert exchange["outcome"] in {"sidecar_restart_orphan", "recorder_failed"}
            assert exchange["progress"]["response_bytes"] == (before[number]["response_bytes"] or 0)
        assert after[5]["upstream"] == backend.url.removeprefix("http://")
        assert after[5]["status"] == 200
        shown = run("show", after[5]["id"], "--data-dir", stack.data_dir, cwd=stack.directory).stdout.decode()
        assert "so far" in shown
        for connection in connections:
            connection.close()
        assert stack.stop() == 0
        assert stack.findings() == []
