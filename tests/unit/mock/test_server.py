"""The demo backend as a program: `extproc mock-llm`."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import PROGRAM, run
from support.raw import Connection
from support.stack import eventually

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A demo backend on a free port, as fast as it can, that knows one model."""
    command = [*PROGRAM, "mock-llm", "--port", "0", "--ttft-ms", "0", "--tokens-per-second", "0", "--strict"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path_factory.mktemp("mock")) as process:
        assert process.stdout is not None
        word, url = process.stdout.readline().split()
        assert word == "ready"
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(150) == 0


def ask(url: str, body: Any = None) -> tuple[int, bytes]:
    """Status and body of a GET, or of a POST of bytes or JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=150) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def metric(url: str, name: str) -> float:
    """One of its metrics."""
    match = re.search(rf"^{name}(?:{{.*}})? ([0-9.]+)$", ask(f"{url}/metrics")[1].decode(), re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def test_models_and_health(url: str) -> None:
    """What a gateway asks first."""
    assert ask(f"{url}/health") == (200, b"")
    assert [model["id"] for model in json.loads(ask(f"{url}/v1/models")[1])["data"]] == ["demo"]


def test_metrics(url: str) -> None:
    """Tokens are counted, and the start of the process is there, by which a restart is told."""
    before = metric(url, "vllm:generation_tokens_total")
    usage = json.loads(ask(f"{url}/v1/chat/completions", CHAT)[1])["usage"]
    assert metric(url, "vllm:generation_tokens_total") == before + usage["completion_tokens"]
    assert metric(url, "process_start_time_seconds") > 1e9
    assert metric(url, "vllm:num_requests_running") == 0


def test_the_same_answer_each_time(url: str) -> None:
    """For the same request."""
    one, two = (json.loads(ask(f"{url}/v1/chat/completions", CHAT)[1])["choices"] for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", b'{"model": "demo", "mess', 400, "BadRequestError"),
        ("/v1/chat/completions", b"\xff\xfe", 400, "BadRequestError"),
        ("/v1/chat/completions", b"[" * 100_000, 400, "BadRequestError"),
        ("/v1/chat/completions", [], 400, "BadRequestError"),
        ("/v1/chat/completions", CHAT | {"messages": []}, 400, "BadRequestError"),
        ("/v1/completions", {"model": ["demo"], "prompt": "a"}, 400, "BadRequestError"),
        ("/v1/embeddings", {"model": "other", "input": "a"}, 404, "NotFoundError"),
        ("/v1/messages", {"model": "demo", "messages": []}, 400, "invalid_request_error"),
        ("/v1/messages", {"model": "other"}, 404, "not_found_error"),
    ],
)
def test_errors(url: str, path: str, body: Any, status: int, kind: str) -> None:
    """In the shape of the API that was asked."""
    got, answer = ask(url + path, body)
    error = json.loads(answer)
    assert (got, error["error"]["type"]) == (status, kind)
    assert error["error"]["message"]


def test_unknown_paths(url: str) -> None:
    """404 and 405, as any server."""
    assert ask(f"{url}/v1/nothing")[0] == 404
    assert ask(f"{url}/v1/chat/completions")[0] == 405


def test_a_client_that_leaves(url: str) -> None:
    """Its generation ends, as a real server's does, and nothing is left running."""
    body = json.dumps(CHAT | {"stream": True, "max_tokens": 100_000, "ignore_eos": True}).encode()
    with Connection.to(int(url.rpartition(":")[2])) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        client.send(head + body)
        assert client.read_head().status == 200
        client.read_chunk()
        client.reset()
    eventually(lambda: metric(url, "vllm:num_requests_running") == 0, "the end of the generation")


def test_a_port_in_use(tmp_path: Path) -> None:
    """One line that says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("mock-llm", "--port", port, cwd=tmp_path)
    assert ended.returncode == 1
    assert f"mock-llm cannot listen on 127.0.0.1:{port}" in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1
