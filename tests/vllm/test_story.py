"""The story on a real vLLM 0.11.0, from the death to the quarantine: `make vllm`, ten minutes and 8 GB at first.

Two servers: one behind Envoy that dies, one to prove it on. What happened is printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.mortal import free_port
from support.stack import RunningStack, eventually

HOME = os.environ.get("EXTPROC_VLLM")
HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(HOME is None, reason="needs a vLLM: make vllm"),
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

KILLER = {"response_format": {"type": "text"}, "max_tokens": 50}
LATCH = {"structured_outputs": {"regex": "^(.*)$"}, "max_tokens": 16}
TRIGGER = {"structured_outputs": {"regex": "foo**"}, "max_tokens": 16, "stream": True}
NESTED = 600
"""So many stop it for 10 to 60 s, whatever the machine; from some 500 on it then answers 500."""
CLIENTS = 20


class Server:
    """A vLLM on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._model = directory / "model"
        if not self._model.exists():
            self._model.symlink_to(Path(HOME or "") / "model")
        self.command = f"sh {HERE}/serve.sh {HOME} {self._model} {self.port}"

    def start(self) -> None:
        """Start it anew."""
        subprocess.run(self.command, shell=True, check=True)
        for _ in range(10):
            with suppress(AssertionError):
                eventually(self.is_well, "a healthy vLLM")
                return
        raise AssertionError(Path(f"{self._model}.{self.port}.log").read_text()[-2000:])

    def is_well(self) -> bool:
        """Whether its health path says so."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def stop(self) -> None:
        """End it and its engine."""
        with suppress(OSError):
            os.killpg(int(Path(f"{self._model}.{self.port}.pid").read_text()), signal.SIGKILL)


def ask(url: str, body: dict[str, Any]) -> int:
    """The status of one request; 0 where there was none."""
    whole = {"model": "tiny", "messages": [{"role": "user", "content": "What is a record?"}], **body}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(whole).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


@contextmanager
def busy(url: str) -> Iterator[list[int]]:
    """Twenty clients that stream, one request after the other; the statuses that they get."""
    over = threading.Event()
    statuses: list[int] = []

    def client(number: int) -> None:
        while not over.is_set():
            body = {"stream": True, "max_tokens": 200 + number, "temperature": 0.7, "ignore_eos": True}
            statuses.append(ask(url, body))
            over.wait(0.05 if statuses[-1] == 200 else 0.5)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


def incidents(stack: RunningStack) -> list[dict[str, Any]]:
    """All that are in the journal by now."""
    lines = invoke("incidents", "--json", "--data-dir", stack.data_dir).stdout.splitlines()
    return [json.loads(line) for line in lines]


def bisect(stack: RunningStack, incident: str, target: Server, state: Path) -> dict[str, Any]:
    """The proof on another server."""
    arguments = ("replay", incident, "--bisect", "--json", "--to", target.url, "--restart", target.command)
    result = invoke(*arguments, "--data-dir", stack.data_dir, "--state", state, "--no-credentials", "--wait", "300")
    print(result.stderr)
    proof: dict[str, Any] = json.loads(result.stdout)
    print(json.dumps({name: proof[name] for name in ("verdict", "killers", "latch", "tries", "restarts", "minimal")}))
    return proof


def die(stack: RunningStack, server: Server, *bodies: dict[str, Any]) -> dict[str, Any]:
    """Serve twenty clients, send these one after the other, and wait until the death is told."""
    before = len(incidents(stack))
    with busy(stack.url) as statuses:
        eventually(lambda: len(statuses) > 2 * CLIENTS, "traffic")
        for body in bodies:
            print(f"{json.dumps(body)[:100]}: {ask(stack.url, body)}")
        eventually(lambda: not server.is_well(), "the server's death")
        eventually(lambda: statuses[-1] != 200, "failures")
    found = eventually(lambda: incidents(stack)[before:] or None, "the incident")
    print(invoke("incidents", found[0]["id"], "--data-dir", stack.data_dir).stdout)
    return found[0]


def freeze(stack: RunningStack) -> list[dict[str, Any]]:
    """Send a schema that stops the API server for a while."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(NESTED):
        schema = {"type": "array", "items": schema}
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "deep", "schema": schema}}}
    before = len(incidents(stack))
    with busy(stack.url) as statuses:
        eventually(lambda: len(statuses) > 2 * CLIENTS, "traffic")
        print(f"{NESTED} nested arrays: {ask(stack.url, body)}")
        count = len(statuses)
        eventually(lambda: len(statuses) > count + CLIENTS, "traffic afterwards")
    eventually(lambda: incidents(stack)[before:] or None, "the incident")
    return incidents(stack)[before:]


def test_the_story(tmp_path: Path) -> None:
    """Dead at once by one request, named first, proven, counted in quarantine; then the pair, and the freeze."""
    production, test = Server(tmp_path), Server(tmp_path)
    try:
        production.start()
        test.start()
        with RunningStack(tmp_path / "stack", "--backend", production.url) as stack:
            death = die(stack, production, {**KILLER, "stream": True})
            killer = death["suspects"][0]["exchange"]
            asked = json.loads(invoke("show", killer, "--body", "request", "--data-dir", stack.data_dir).stdout)
            assert asked["response_format"] == {"type": "text"}
            proof = bisect(stack, death["id"], test, tmp_path / "first.jsonl")
            assert (proof["verdict"], proof["killers"]) == ("proven", [killer])
            assert proof["restarts"] <= 3
            assert len(proof["minimal"]) <= 5

            added = invoke("quarantine", "add", death["id"], "--data-dir", stack.data_dir)
            print(added.output)
            production.start()

            def counted() -> bool:
                ask(stack.url, {**KILLER, "stream": True})
                listed = json.loads(invoke("quarantine", "list", "--json", "--data-dir", stack.data_dir).stdout)
                return bool(listed["entries"][0]["would_refuse"] > 0)

            eventually(counted, "the next one, counted")
            print(invoke("quarantine", "list", "--data-dir", stack.data_dir).output)

            production.start()
            pair = die(stack, production, LATCH, TRIGGER)
            proof = bisect(stack, pair["id"], test, tmp_path / "second.jsonl")
            assert proof["verdict"] == "proven"
            assert proof["latch"] is not None

            production.start()
            print([(each["class"], each["verdict"]) for each in freeze(stack)])
            assert incidents(stack)[-1]["class"] == "freeze"
    finally:
        production.stop()
        test.stop()
