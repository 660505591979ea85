"""`extproc load`: against the demo backend, as a person runs it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM, invoke, run


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a demo backend that does not make one wait."""
    command = [*PROGRAM, "mock-llm", "--port", "0", "--ttft-ms", "0", "--tokens-per-second", "0", "--strict"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path_factory.mktemp("mock")) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


@pytest.mark.parametrize("arguments", [(), ("--stream",)])
@pytest.mark.parametrize("path", ["", "/", "/v1/chat/completions", "/v1/completions"])
def test_a_load_for_a_program(backend: str, tmp_path: Path, path: str, arguments: tuple[str, ...]) -> None:
    """Every figure as JSON."""
    done = run("load", backend + path, "-n", "20", "-c", "4", "--json", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    figures = json.loads(done.stdout)
    assert (figures["requests"], figures["errors"], figures["error_kinds"]) == (20, 0, {})
    assert figures["upstreams"] == {"-": 20}
    assert figures["output_tokens_per_second"] > 0
    assert figures["duration_ms"]["p50"] <= figures["duration_ms"]["p99"] <= figures["duration_ms"]["max"]
    assert figures["ttft_ms"]["p50"] > 0


def test_a_load_for_a_person(backend: str, tmp_path: Path) -> None:
    """Requests a second, latency, first token, tokens, backends."""
    done = run("load", backend, "-n", "5", "--stream", cwd=tmp_path)
    text = done.stdout.decode()
    assert re.match(r"5 requests in [\d.]+ s: [\d.]+ a second\n", text)
    for title in ("output tokens a second", "whole answer: p50 ", "first token: p50 ", "-: 5 (100.0%)"):
        assert title in text


def test_errors_are_counted(backend: str, tmp_path: Path) -> None:
    """A model that is not there: exit code 1, and what went wrong."""
    done = run("load", backend, "-n", "5", "--model", "nobody", cwd=tmp_path)
    assert done.returncode == 1
    assert re.match(rb"5 requests in [\d.]+ s, 5 of them failed\n", done.stdout)
    assert b"error: status 404: 5" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_load_against_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A failure with one line that says so, and no requests a second."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        done = run("load", url, "-n", "50", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    wanted = f"extproc: {url}/v1/chat/completions: no request was answered; is the server there?"
    assert done.stderr.decode().splitlines() == [wanted]
    if arguments:
        figures = json.loads(done.stdout)
        assert (figures["errors"], figures["requests_per_second"]) == (50, None)
        assert figures["error_kinds"] == {"ClientConnectorError (Connection refused)": 50}
    else:
        assert b"a second" not in done.stdout


def test_a_signal_ends_it(tmp_path: Path) -> None:
    """What was measured until then is printed."""
    slow = [*PROGRAM, "mock-llm", "--port", "0", "--ttft-ms", "100000"]
    with subprocess.Popen(slow, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as backend:
        assert backend.stdout is not None
        url = backend.stdout.readline().split()[1]
        load = subprocess.Popen([*PROGRAM, "load", url, "-c", "1", "--json"], stdout=subprocess.PIPE, cwd=tmp_path)
        with load:
            _until_it_listens_to_signals(load.pid)
            load.send_signal(signal.SIGINT)
            assert load.wait(150) == 1  # nothing had ended
        backend.terminate()


def _until_it_listens_to_signals(pid: int) -> None:
    """Until the process has a handler of its own for SIGTERM, which Python has not by itself."""
    while True:
        match = re.search(r"SigCgt:\s+([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
        assert match is not None
        if int(match[1], 16) >> (signal.SIGTERM - 1) & 1:
            return


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("ftp://a",), ("http://a/v1/embeddings",), ("http://a", "-n", "0"), ("http://a", "-H", "x")],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """Exit code 2, and what was expected."""
    result = invoke("load", *arguments)
    assert result.exit_code == 2
    assert "expected" in result.stderr or "range" in result.stderr
