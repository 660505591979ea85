"""The demo engine dies: what its clients see, and what becomes of the process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import PROGRAM, run
from support.raw import Closed, Connection
from support.stack import end, eventually

from extproc.mock.dying import How, Mode, parse

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
LONG: dict[str, Any] = {"messages": HELLO, "max_tokens": 100_000, "ignore_eos": True}
KILLER: dict[str, Any] = {"messages": HELLO, "user": "killer"}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n%b"


@dataclass
class Demo:
    """A demo backend that may die."""

    process: subprocess.Popen[str]
    port: int
    connections: contextlib.ExitStack

    def ask(self, name: bytes = b"other", **body: Any) -> Connection:
        """Send a request, and do not wait."""
        connection = self.connections.enter_context(Connection.to(self.port))
        raw = json.dumps(body).encode()
        connection.send(POST % (name, len(raw), raw))
        return connection

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET on a connection of its own."""
        with Connection.to(self.port) as connection:
            connection.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            message = connection.read_message()
            return message.head.status, message.body

    def running(self, how: str = "running") -> int:
        """How many requests it works on, or has waiting."""
        found = re.search(rb"requests_%b\{.*} (\d+)" % how.encode(), self.get("/metrics")[1])
        assert found is not None
        return int(found[1])

    def is_ready(self) -> bool:
        assert self.process.stdout is not None
        return self.process.stdout.readline().startswith("ready ")


@contextlib.contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    """A demo backend that is killed by the user `killer`, unless its arguments say otherwise."""
    rule = () if "--die-on" in arguments else ("--die-on", "user=killer")
    command = [*PROGRAM, "mock-llm", "--port", "0", "--ttft-ms", "10", *rule, *arguments]
    with (directory / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=directory)
    try:
        assert process.stdout is not None
        with contextlib.ExitStack() as connections:
            yield Demo(process, int(process.stdout.readline().rpartition(":")[2]), connections)
    finally:
        if process.poll() is None:
            end(process, signal.SIGKILL if "--restart-after" not in arguments else signal.SIGTERM)
        if process.stdout is not None:
            process.stdout.close()


def told(connection: Connection) -> str:
    """What a request got in the end: its last frame or its status, with the error in either."""
    try:
        head = connection.read_head()
    except Closed:
        return "nothing"
    try:
        body = connection.finish(head).body
    except Closed:
        return "cut"
    *frames, last = body.strip().split(b"\n\n")
    done = last == b"data: [DONE]"
    document = json.loads((frames[-1] if done else last).removeprefix(b"data: "))
    error = (document or {}).get("error", document)
    words = f"{error['type']} {error['code']}" if error and "code" in error else "whole"
    if last is body.strip() or not body.startswith(b"data: "):
        return f"{head.status} {words if document is not None else 'null'}"
    return f"{'frame' if words != 'whole' else 'stream'} {words}{'' if done else ', not done'}"


VLLM, FLAT = "Internal Server Error 500", "InternalServerError 500"
CASES: dict[tuple[str, str], tuple[list[str], int]] = {
    # engine and mode: a stream and an answer in one piece in flight, the killer (a stream); its process
    ("vllm", "frames=0.9"): (["frame BadRequestError 400", f"500 {VLLM}", "frame BadRequestError 400"], 0),
    ("vllm", "exit"): (["cut", "nothing", "nothing"], 1),
    ("vllm", "kill"): (["cut", "nothing", "nothing"], -9),
    ("vllm", "500"): (["cut", "nothing", f"500 {VLLM}"], 1),
    ("vllm", "memory=0.4"): (["cut", "nothing", "cut"], -9),
    ("sglang", ""): (["cut", "nothing", "nothing"], -9),
    ("sglang", "frames=0.9"): ([f"frame {FLAT}", f"500 {FLAT}", f"frame {FLAT}"], 0),
    ("llama.cpp", "500"): (["cut", "nothing", "500 server_error 500"], 1),
    ("llama.cpp", "frames=0.9"): (
        ["frame server_error 500, not done", "500 server_error 500", "frame server_error 500, not done"],
        0,
    ),
    ("tensorrt-llm", "frames=0.9"): (["cut", "200 null", "cut"], 0),
}


@pytest.mark.parametrize(("engine", "how"), CASES)
def test_deaths(tmp_path: Path, engine: str, how: str) -> None:
    """What those in flight and the killer see, the process's end, and a line that names the killer."""
    mode = ["--die-how", how] if how else []
    with demo(tmp_path, "--engine", engine, *mode) as backend:
        streaming, plain = backend.ask(**LONG, stream=True), backend.ask(**LONG)
        eventually(lambda: backend.running() == 2, "both running")
        bad = backend.ask(b"the-one", **LONG, user="killer", stream=True)
        seen = [told(streaming), told(plain), told(bad)]
        assert (seen, backend.process.wait(150)) == CASES[engine, how]
    assert "of request the-one: user=killer\n" in (tmp_path / "stderr").read_text()


def test_dead_but_there(tmp_path: Path) -> None:
    """keep-500: an error to all that comes, as a status for streams, too; its health says so."""
    with demo(tmp_path, "--die-how", "keep-500") as backend:
        assert backend.get("/health")[0] == 200
        assert told(backend.ask(**KILLER)) == "500 Internal Server Error 500"
        for stream in (False, True):
            assert told(backend.ask(messages=HELLO, stream=stream)) == "500 Internal Server Error 500"
        assert backend.get("/health")[0] == 503
        assert backend.get("/metrics")[0] == 200
        assert backend.process.poll() is None


def test_unavailable(tmp_path: Path) -> None:
    """keep-503: streams are cut, and 503 to all that comes."""
    with demo(tmp_path, "--die-how", "keep-503", "--engine", "llama.cpp") as backend:
        streaming = backend.ask(**LONG, stream=True)
        eventually(lambda: backend.running() == 1, "a stream")
        assert told(backend.ask(**KILLER)) == "503 unavailable_error 503"
        assert told(streaming) == "cut"
        assert told(backend.ask(messages=HELLO)) == "503 unavailable_error 503"
        assert backend.get("/health")[0] == 503


def test_a_hang(tmp_path: Path) -> None:
    """Nothing more to anybody, and its health is well."""
    with demo(tmp_path, "--die-how", "hang", "--tokens-per-second", "1000") as backend:
        streaming = backend.ask(**LONG, stream=True)
        streaming.read_until(b"data: ")
        killer, later = backend.ask(**KILLER), backend.ask(messages=HELLO)
        eventually(lambda: "user=killer" in (tmp_path / "stderr").read_text(), "the end")
        eventually(lambda: backend.running("waiting") == 1, "a later one")
        assert backend.get("/health")[0] == 200
        while not streaming.nothing_yet():
            streaming.read_some(1 << 20)
        assert killer.nothing_yet()
        assert later.nothing_yet()


def test_a_freeze(tmp_path: Path) -> None:
    """The process stands still, then all go on, the one that did it among them."""
    with demo(tmp_path, "--die-how", "freeze=0.3") as backend:
        streaming = backend.ask(messages=HELLO, stream=True)
        assert told(backend.ask(**KILLER)) == "200 whole"
        assert told(streaming) == "stream whole"
        assert backend.process.poll() is None


def test_what_does_not_fit_into_memory_is_not_answered(tmp_path: Path) -> None:
    """memory: however short its answer would be, while others still get theirs."""
    with demo(tmp_path, "--die-how", "memory=60") as backend:
        killer = backend.ask(**KILLER, max_tokens=1)
        eventually(lambda: "user=killer" in (tmp_path / "stderr").read_text(), "the end")
        assert told(backend.ask(messages=HELLO, max_tokens=1)) == "200 whole"
        assert killer.nothing_yet()


def test_one_request_alone(tmp_path: Path) -> None:
    """alone: it fails, and nobody else."""
    with demo(tmp_path, "--die-how", "alone") as backend:
        streaming = backend.ask(messages=HELLO, stream=True)
        assert told(backend.ask(**KILLER)) == "500 Internal Server Error 500"
        assert told(backend.ask(**KILLER, stream=True)) == "500 Internal Server Error 500"
        assert told(streaming) == "stream whole"
        assert backend.get("/health")[0] == 200


def test_a_latch(tmp_path: Path) -> None:
    """The request is answered, and the engine dies after it."""
    with demo(tmp_path, "--die-how", "latch=0.1,kill") as backend:
        streaming = backend.ask(**LONG, stream=True)
        assert told(backend.ask(b"the-one", **KILLER)) == "200 whole"
        assert told(streaming) == "cut"
        assert backend.process.wait(150) == -signal.SIGKILL
    assert "of request the-one" in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_kills(tmp_path: Path, stream: bool) -> None:
    """@cancel: of an answer in one piece as of a stream."""
    with demo(tmp_path, "--die-on", "@cancel", "--die-how", "exit") as backend:
        leaving = backend.ask(b"the-one", **LONG, stream=stream)
        eventually(lambda: backend.running() == 1, "its turn")
        leaving.close()
        assert backend.process.wait(150) == 1
    assert "of request the-one: @cancel" in (tmp_path / "stderr").read_text()


def test_a_request_that_is_wrong_kills(tmp_path: Path) -> None:
    """An engine may die of a request that it would refuse, and refuses the others."""
    with demo(tmp_path, "--die-on", "n is huge", "--die-how", "exit") as backend:
        assert told(backend.ask(messages=[])) == "400 BadRequestError 400"
        assert told(backend.ask(messages=[], n=10**9)) == "nothing"


def test_the_oldest_of_the_queue(tmp_path: Path) -> None:
    """--slots: the killer waits for its turn, and kills when it has it, not before."""
    arguments = ("--slots", "1", "--die-on", "user=killer and @waited>0", "--die-how", "exit")
    with demo(tmp_path, *arguments, "--tokens-per-second", "50") as backend:
        first = backend.ask(messages=HELLO, max_tokens=20, ignore_eos=True, stream=True)
        eventually(lambda: backend.running() == 1, "the first")
        killer = backend.ask(**KILLER)
        eventually(lambda: backend.running("waiting") == 1, "the queue")
        assert told(first) == "stream whole"
        assert told(killer) == "nothing"


def test_it_is_started_again(tmp_path: Path) -> None:
    """--restart-after: at the same port, whatever ended it, and the earlier life is forgotten."""
    arguments = ("--die-on", "user=a then user=b", "--die-how", "kill", "--restart-after", "0")
    with demo(tmp_path, *arguments) as backend:
        for _ in range(2):
            assert told(backend.ask(messages=HELLO, user="b")) == "200 whole"
            assert told(backend.ask(messages=HELLO, user="a")) == "200 whole"
            assert told(backend.ask(messages=HELLO, user="b")) == "nothing"
            assert backend.is_ready()
        assert "killed by SIGKILL; starting it again" in (tmp_path / "stderr").read_text()


def test_what_is_dead_but_there_is_ended(tmp_path: Path) -> None:
    """--restart-after: as a supervisor does whose probes fail."""
    with demo(tmp_path, "--die-how", "hang", "--restart-after", "0.2") as backend:
        assert told(backend.ask(**KILLER)) == "nothing"
        assert backend.is_ready()
        assert told(backend.ask(messages=HELLO)) == "200 whole"


@pytest.mark.parametrize(
    ("engine", "path", "member", "value"),
    [
        ("vllm", "/version", "version", "0.11.0"),
        ("sglang", "/get_server_info", "version", "0.5.4"),
        ("llama.cpp", "/props", "build_info", "b6915-5d8bb900b"),
        ("tensorrt-llm", "/version", "version", "1.0.0"),
    ],
)
def test_what_an_engine_says_of_itself(tmp_path: Path, engine: str, path: str, member: str, value: str) -> None:
    """At the places where the real one does."""
    with demo(tmp_path, "--engine", engine) as backend:
        assert json.loads(backend.get(path)[1])[member] == value


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("frames", How(Mode.FRAMES, 2)),
        ("freeze=30", How(Mode.FREEZE, 30)),
        ("latch", How(Mode.KILL, 0, 0.5)),
        ("latch=2,500", How(Mode.ERROR, 0.2, 2)),
    ],
)
def test_modes(text: str, how: How) -> None:
    """A mode, its seconds, and a latch before it."""
    assert parse(text, "kill") == how


@pytest.mark.parametrize("text", ["", "explode", "freeze=long", "freeze=-1", "kill,exit", "freeze=nan"])
def test_modes_that_are_none(text: str) -> None:
    """Refused."""
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--die-on", "n>many"), "> needs a number, not 'many'"),
        (("--die-how", "explode"), "'explode' is none of frames, exit, kill, 500, hang"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Exit 2, and what is wrong."""
    ended = run("mock-llm", "--port", "0", *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert words in " ".join(ended.stderr.decode().split())
