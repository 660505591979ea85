"""The page beside the stack: `up` starts it and prints its address, and nothing depends on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support.commands import run
from support.stack import RunningStack, eventually

HELLO = json.dumps({"model": "demo", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}).encode()


def address(stack: RunningStack) -> str:
    """What `up` prints of it, after its other lines."""
    assert stack.process.stdout is not None
    for line in stack.process.stdout:
        word, _, url = line.strip().partition("  ")
        if word == "page":
            return url
    raise AssertionError(stack.stderr())


def ask(url: str, body: bytes | None = None) -> Any:
    """The JSON that is answered."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def page_of(stack: RunningStack) -> int | None:
    """The process id of the page."""
    return next((pid for pid, line in stack.children().items() if " page " in line), None)


@pytest.mark.e2e
def test_up_has_a_page_that_dies_alone(tmp_path: Path) -> None:
    """It shows what goes through; killed, it is started again, and requests never notice."""
    with RunningStack(tmp_path, page="up", page_port=0) as stack:
        url = address(stack)
        ask(f"{stack.url}/v1/chat/completions", HELLO)
        (row,) = eventually(lambda: ask(f"{url}api/v1/exchanges?view=rows")["exchanges"], "the exchange")
        assert (row["outcome"], row["model"]) == ("ok", "demo")
        (status,) = ask(f"{url}api/v1/status")
        assert status["recording"] is True
        assert {each["name"] for each in ask(f"{url}api/v1/envoy")} >= {"envoy.yaml"}
        first = page_of(stack)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        ask(f"{stack.url}/v1/chat/completions", HELLO)
        eventually(lambda: page_of(stack) not in (None, first), "another page")
        assert stack.stop() == 0
    assert "the page was killed by SIGKILL; starting it again" in stack.stderr()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """Whoever starts it is told what is wrong, and nothing else."""
    (tmp_path / "data").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("page", "--port", port, "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"extproc: page cannot listen on 127.0.0.1:{port}: Address already in use"
    ]


def test_without_the_extra_it_says_what_is_missing(tmp_path: Path) -> None:
    """One line that names the extra, exit 2: `up` goes on without a page."""
    (tmp_path / "data").mkdir()
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\")")
    done = run("page", "--data-dir", tmp_path / "data", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert "pip install 'extproc[page]'" in line
