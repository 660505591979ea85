"""`extproc up` as a program: how it starts, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import PROGRAM, run
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack, eventually, is_running

from extproc.envoy.config import files

FAST = ("--envoy-concurrency", "1")
FREE_PORTS = ("--port", "0", "--admin-port", "0", "--envoy-admin-port", "0")


def everything(stack: RunningStack) -> list[int]:
    """All processes of a stack."""
    return [stack.process.pid, *stack.children()]


@dataclasses.dataclass
class Shared:
    """A stack that several tests use, each of which leaves it serving, and what it said when it was ready."""

    stack: RunningStack
    curl: str
    log: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """In a directory whose name a shell takes for two words."""
    with RunningStack(tmp_path_factory.mktemp("up") / "my stack", *FAST) as stack:
        assert stack.process.stdout is not None
        curl, log = (stack.process.stdout.readline() for _ in range(2))
        yield Shared(stack, curl.removeprefix("try "), log.removeprefix("then "))
        assert get(f"{stack.url}/v1/models")[0] == 200
        assert stack.stop() == 0
        assert stack.findings() == []


def get(url: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=150) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 0, nothing left running, every segment closed, and no exchange of its own making."""
    with RunningStack(tmp_path, "--workers", "2", *FAST) as stack:
        processes = everything(stack)
        assert len(processes) == 7, "up, two workers, the follower, Envoy, two demo backends"
        assert get(f"{stack.admin}/readyz")[0] == 200
        assert get(f"{stack.envoy_admin}/ready")[0] == 200
        assert stack.exchanges() == []
        for file in (stack.data_dir, stack.data_dir / "run" / "envoy" / "admin-address"):
            assert file.stat().st_mode & 0o077 == 0, f"others can read {file}"
        assert stack.stop(number) == 0
    assert [pid for pid in processes if is_running(pid)] == []
    assert list((stack.data_dir / "segments").glob("*.open")) == []
    assert not (stack.data_dir / "run" / "extproc.sock").exists()
    assert stack.findings() == []


def test_the_curl_line_works(shared: Shared) -> None:
    """What it says to try, works, and can be read back with the next line."""
    answer = subprocess.run(shared.curl, shell=True, capture_output=True, check=True)
    assert answer.stdout.endswith(b"data: [DONE]\n\n")
    log = f"{shared.log.strip()} --json --path /v1/chat/completions"
    shown = subprocess.run(log, shell=True, cwd=shared.stack.directory, capture_output=True, check=True)
    (exchange,) = (json.loads(line) for line in shown.stdout.splitlines())
    assert (exchange["outcome"], exchange["llm"]["stream"]) == ("ok", True)


@pytest.mark.parametrize(
    ("listens", "reached", "is_open"),
    [
        ('"::1"', "[::1]", False),
        ('"::"', "[::1]", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.2", False),
    ],
)
def test_what_it_prints_works(tmp_path: Path, listens: str, reached: str, is_open: bool) -> None:
    """The URLs, wherever it listens, and a word when other machines reach it too."""
    directory = envoy_directory(
        tmp_path / "envoy", files.BOOTSTRAP, "{address: 0.0.0.0, port", f"{{address: {listens}, port"
    )
    command = [*PROGRAM, "up", *FREE_PORTS, *FAST, "--envoy-dir", str(directory)]
    env = {**os.environ, "EXTPROC_ADMIN_HOST": "::1", "EXTPROC_PAGE": "off"}
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
    with process:
        assert process.stdout is not None
        url, _, ours = re.findall(r"http://[^ ,)]+", process.stdout.readline())
        try:
            assert url.startswith(f"http://{reached}:")
            assert ours.startswith("http://[::1]:")
            assert [get(url + "/v1/models")[0], get(ours)[0]] == [200, 200]
        finally:
            process.terminate()
        said = process.stdout.read()
    assert ("open  to other machines too, on " in said) == is_open


def test_the_log_line_works(shared: Shared) -> None:
    """It names the command as it was started, and the directory so that a shell takes it for one word."""
    urllib.request.urlopen(f"{shared.stack.url}/v1/models").read()
    eventually(lambda: any(each.path == "/v1/models" for each in shared.stack.exchanges()), "the exchange")
    shown = subprocess.run(["/bin/sh", "-e"], input=shared.log, cwd="/", capture_output=True, text=True, check=True)
    assert "/v1/models" in shown.stdout


def test_a_web_page_cannot_stop_envoy(shared: Shared) -> None:
    """What it sends to the admin port from a browser on this machine changes nothing; what is only read is answered."""
    stack = shared.stack
    for path in ("quitquitquit", "drain_listeners", "healthcheck/fail", "drain_listeners?x", "logging?level=trace"):
        request = urllib.request.Request(f"{stack.envoy_admin}/{path}", b"", {"origin": "https://evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        with refused.value:
            assert refused.value.code == 403
    for path in ("ready", "stats?filter=x", "stats/prometheus", "clusters?format=json", "config_dump", ""):
        assert get(f"{stack.envoy_admin}/{path}")[0] == 200
    assert get(f"{stack.url}/v1/models")[0] == 200


def test_running_exchanges_are_waited_for(tmp_path: Path) -> None:
    """After a signal the exchange that runs goes on to its end; the stack refuses new connections meanwhile."""
    with RawBackend() as backend, RunningStack(tmp_path, "--backend", backend.url, *FAST) as stack:
        refused: list[bool] = []

        def script(connection: Connection, head: Head) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
            stack.process.send_signal(signal.SIGTERM)
            refused.append(eventually(lambda: not accepts(stack.port), "the end of the listener"))
            connection.send(b"1\r\nb\r\n0\r\n\r\n")

        path = backend.on(script)
        with Connection.to(stack.port) as client:
            client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            assert client.read_message().body == b"ab"
        assert stack.stop() == 0
        assert refused == [True]
        assert backend.errors == []
    assert stack.exchange_of(path).outcome == "ok"


def accepts(port: int) -> bool:
    """Whether somebody listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("hurry", [False, True])
def test_what_does_not_end_in_time_is_drained(tmp_path: Path, hurry: bool) -> None:
    """After drain_seconds, or at once at a second signal, what still runs ends as `proxy_drain`."""
    drain_seconds = 600 if hurry else 0.5
    with RawBackend() as backend:

        def script(connection: Connection, head: Head) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
            connection.read_to_end()

        path = backend.on(script)
        stack = RunningStack(tmp_path, "--backend", backend.url, *FAST, drain_seconds=drain_seconds)
        with stack, Connection.to(stack.port) as client:
            client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            client.read_head()
            assert client.read_chunk() == b"a"
            stack.process.send_signal(signal.SIGTERM)
            if hurry:
                eventually(lambda: not accepts(stack.port), "the end of the listener")
            assert stack.stop() == 0
    exchange = stack.exchange_of(path)
    assert (exchange.outcome, present(exchange.response).ended_by) == ("proxy_drain", "drain")
    assert present(exchange.response).bytes == 1
    assert stack.findings() == []


def test_envoys_death_takes_all_down(tmp_path: Path) -> None:
    """Exit code 1 and a line that says what has died, and how."""
    with RunningStack(tmp_path, *FAST) as stack:
        processes = everything(stack)
        os.kill(stack.envoy(), signal.SIGKILL)
        assert stack.process.wait(150) == 1
    assert "Envoy has ended: killed by SIGKILL" in stack.stderr()
    assert [pid for pid in processes if is_running(pid)] == []


def test_a_worker_that_dies_is_restarted(shared: Shared) -> None:
    """With a line that says so. While it is away requests wait or are refused; then they pass."""
    stack = shared.stack
    pid = stack.workers()[0]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: get(f"{stack.url}/v1/models")[0] == 200, "a request that passes")
    assert stack.workers()[0] != pid
    assert f"worker 0 (pid {pid}) was killed by SIGKILL; starting it again" in stack.stderr()


def test_a_worker_that_dies_costs_only_what_runs_on_it(tmp_path: Path) -> None:
    """The request under way, and at most the one that finds it gone; the others go to the other worker."""
    with RunningStack(tmp_path, "--workers", "2", *FAST) as stack:
        os.kill(stack.workers()[0], signal.SIGKILL)
        statuses = [get(f"{stack.url}/v1/models")[0] for _ in range(50)]
        assert statuses.count(200) >= 48, statuses


def test_workers_that_die_all_the_time_take_all_down(tmp_path: Path) -> None:
    """More than five deaths in a minute: exit code 1."""
    with RunningStack(tmp_path, *FAST) as stack:
        processes = set(everything(stack))
        for _ in range(6):
            pid = eventually(lambda: stack.workers().get(0), "a worker")
            processes.add(pid)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: not is_running(pid), "its end")  # type: ignore[misc]
        assert stack.process.wait(150) == 1
        assert "died more than 5 times within a minute" in stack.stderr()
    assert [pid for pid in processes if is_running(pid)] == []


def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    """`kill -9` of up itself: the children go with it, and the next start finds nothing in its way."""
    with RunningStack(tmp_path, *FAST) as stack:
        processes = everything(stack)
        assert get(f"{stack.url}/v1/models")[0] == 200
        stack.process.kill()
        eventually(lambda: not any(is_running(pid) for pid in processes), "the end of all processes")
    with RunningStack(tmp_path, *FAST) as stack:
        assert get(f"{stack.url}/v1/models")[0] == 200
        assert stack.stop() == 0
        assert stack.findings() == []


def test_a_demo_backend_that_dies_is_restarted(shared: Shared) -> None:
    """On the same port, so that Envoy finds it again."""
    stack = shared.stack
    for pid, line in stack.children().items():
        if "mock-llm" in line:
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: get(f"{stack.url}/v1/models")[0] == 200, "a request that passes")
    eventually(lambda: stack.stderr().count("demo backend 127.0.0.1:") == 2, "a line for each of the two")


# What is in the way ----------------------------------------------------------------------------------------


def test_ports_in_use(tmp_path: Path) -> None:
    """A line for each, with its flag, before anything is started; Envoy alone would share its port without a word."""
    flags = ("--port", "--envoy-admin-port", "--admin-port")
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=True)) for _ in flags]
        ports = [str(taken.getsockname()[1]) for taken in sockets]
        ended = run("up", *itertools.chain(*zip(flags, ports, strict=True)), cwd=tmp_path)
    assert ended.returncode == 1
    for line, flag, port in zip(ended.stderr.decode().splitlines(), flags, ports, strict=True):
        assert f"port {port} " in line
        assert line.endswith(flag)


def test_a_directory_in_use(shared: Shared, tmp_path: Path) -> None:
    """A second stack on the same directory is refused, whatever ports it asks for, and the first one goes on."""
    stack = shared.stack
    ports = ("--port", str(stack.port), *FREE_PORTS[2:])
    ended = run("up", *ports, "--data-dir", stack.data_dir, cwd=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.decode().splitlines()
    assert f"another sidecar (process {stack.process.pid})" in line
    assert get(f"{stack.url}/v1/models")[0] == 200


@pytest.mark.parametrize("watch", [(), ("--watch",)])
def test_publishing_where_a_stack_serves(shared: Shared, tmp_path: Path, watch: tuple[str, ...]) -> None:
    """It is refused with a line that names the process, and the stack's backends stay live."""
    stack = shared.stack
    before = {path.name: path.read_bytes() for path in (stack.data_dir / "run" / "envoy").iterdir()}
    ended = run("publish", "--data-dir", stack.data_dir, "--backend", "http://127.0.0.1:9", *watch, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert f"`extproc up` (process {stack.process.pid}) publishes here" in ended.stderr.decode()
    assert {path.name: path.read_bytes() for path in (stack.data_dir / "run" / "envoy").iterdir()} == before
    assert get(f"{stack.url}/v1/models")[0] == 200


def envoy_directory(directory: Path, name: str, old: str, new: str) -> Path:
    """A configuration directory with one file, the shipped one with one change."""
    directory.mkdir()
    text = (files.shipped() / name).read_text(encoding="utf-8")
    assert old in text
    (directory / name).write_text(text.replace(old, new))
    return directory


@pytest.mark.parametrize(
    ("name", "old"),
    [("envoy.yaml", "stat_prefix: ingress"), ("routes.yaml", "timeout: 0s"), ("clusters.yaml", "lb_policy:")],
)
def test_a_misspelt_field(tmp_path: Path, name: str, old: str) -> None:
    """Exit code 2 with the place, and what was meant, in whichever file it is; nothing is left running."""
    misspelt = old.replace("t", "tt", 1).replace("lb_", "lbb_")
    directory = envoy_directory(tmp_path / "envoy", name, old, misspelt)
    ended = run("up", *FREE_PORTS, "--envoy-dir", directory, cwd=tmp_path)
    assert ended.returncode == 2
    wrong, right = (each.partition(":")[0] for each in (misspelt, old))
    assert re.search(
        rf"{directory}/{name}:\d+:\d+: error: \w+ has no {wrong}; did you mean {right}\?", ended.stderr.decode()
    )


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    """Exit code 2 with file and line."""
    directory = envoy_directory(tmp_path / "envoy", "routes.yaml", "resources:", "resources: [")
    ended = run("up", *FREE_PORTS, "--envoy-dir", directory, cwd=tmp_path)
    assert ended.returncode == 2
    assert f"{directory}/routes.yaml:" in ended.stderr.decode()


def test_a_long_data_directory(tmp_path: Path) -> None:
    """A path that no socket can have: the socket is elsewhere, in a directory of our own that goes at the end."""
    with RunningStack(tmp_path / ("long" * 30), *FAST) as stack:
        assert get(f"{stack.url}/v1/models")[0] == 200
        text = (stack.data_dir / "run" / "envoy" / "envoy.yaml").read_text()
        (pipe,) = [each["path"] for each in files._find(yaml.safe_load(text), "pipe")]
        assert Path(pipe).parent.stat().st_mode & 0o777 == 0o700
        assert stack.stop() == 0
        assert not Path(pipe).parent.exists()


def test_waiting_for_a_backend(tmp_path: Path) -> None:
    """`ready` comes when the backend does, and what it waits for is said meanwhile; a signal ends the waiting."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*PROGRAM, "up", *FREE_PORTS, "--backend", url], cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr
            )
        eventually(lambda: "still waiting: no backend is healthy" in (tmp_path / "stderr").read_text(), "the line")
        process.terminate()
        output, _ = process.communicate(timeout=150)
    assert (process.returncode, output) == (0, b"")


# Backends --------------------------------------------------------------------------------------------------


def test_several_backends_share_the_load(tmp_path: Path) -> None:
    """Each of the named backends gets requests, and the record names the one that answered."""
    answers: dict[str, int] = {}

    def script(connection: Connection, head: Head) -> None:
        name = f"127.0.0.1:{connection.socket.getsockname()[1]}"
        answers[name] = answers.get(name, 0) + 1
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with RawBackend() as one, RawBackend() as two:
        one.otherwise = two.otherwise = script
        with RunningStack(tmp_path, "--backend", one.url, "--backend", two.url, *FAST) as stack:
            eventually(lambda: get(f"{stack.url}/a")[0] == 200 and len(answers) == 2, "both backends")
            upstreams = [exchange.upstream for exchange in stack.exchanges()]
    assert set(upstreams) == {f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"}


def test_every_backend_gets_requests_from_the_first_on(tmp_path: Path) -> None:
    """All that are healthy at `ready`, not only those whose checks were the first to succeed."""

    def script(connection: Connection, head: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with RawBackend() as one, RawBackend() as two, RawBackend() as three:
        one.otherwise = two.otherwise = three.otherwise = script
        flags = [flag for backend in (one, two, three) for flag in ("--backend", backend.url)]
        upstreams = set()
        with RunningStack(tmp_path, *flags, *FAST) as stack:
            for _ in range(60):
                with urllib.request.urlopen(stack.url, timeout=150) as answer:
                    upstreams.add(answer.headers["x-upstream"])
    assert len(upstreams) == 3


def test_what_becomes_of_backends_is_said(tmp_path: Path) -> None:
    """The parts as they start; a name that does not resolve; a backend that dies, and when it is back."""
    with contextlib.ExitStack() as running:

        def backend(port: int) -> tuple[subprocess.Popen[str], int]:
            command = [*PROGRAM, "mock-llm", "--port", str(port)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
            running.enter_context(process)
            running.callback(process.kill)
            assert process.stdout is not None
            return process, int(process.stdout.readline().rpartition(":")[2])

        (one, port), (_, other) = backend(0), backend(0)
        urls = (f"http://127.0.0.1:{port}", f"http://localhost:{other}", "http://no-such-host.invalid:8000")
        with RunningStack(tmp_path, *(word for url in urls for word in ("--backend", url)), *FAST) as stack:

            def said(line: str) -> None:
                eventually(lambda: line in stack.stderr(), line)

            said("starting the sidecar, 1 worker")
            said("starting Envoy")
            said("backend no-such-host.invalid of llm: the name does not resolve, so that it gets no requests")
            one.kill()
            one.wait()
            said(f"backend 127.0.0.1:{port} of llm is unhealthy: its health check ")
            backend(port)
            said(f"backend 127.0.0.1:{port} of llm is healthy again")
            assert f":{other} " not in stack.stderr()


def test_an_https_backend(tmp_path: Path) -> None:
    """TLS with SNI and the system's authorities, and the backend's own name as host."""
    certificate = make_certificate(tmp_path)
    seen: list[tuple[str, str | None]] = []

    def script(connection: Connection, head: Head) -> None:
        seen.append((head.path, head.get("host")))
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with RawBackend(certificate) as backend:
        backend.otherwise = script
        url = f"https://localhost:{backend.port}"
        with RunningStack(tmp_path, "--backend", url, *FAST, SSL_CERT_FILE=certificate) as stack:
            assert get(f"{stack.url}/secure") == (200, b"ok")
            assert stack.exchange_of("/secure").upstream == f"127.0.0.1:{backend.port}"
        assert seen == [("/secure", f"localhost:{backend.port}")]
        assert set(backend.server_names) == {"localhost"}


def make_certificate(directory: Path) -> Path:
    """A self-signed certificate for localhost with its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    path = directory / "localhost.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*command, "-keyout", directory / "key", "-out", path], check=True, capture_output=True)
    with path.open("ab") as file:
        file.write((directory / "key").read_bytes())
    return path


def test_the_admin_port_says_when_the_sidecar_is_not_ready(shared: Shared) -> None:
    """/readyz goes red while a worker is down; /healthz stays."""
    stack = shared.stack
    os.kill(stack.workers()[0], signal.SIGSTOP)
    os.kill(stack.workers()[0], signal.SIGKILL)
    eventually(lambda: get(f"{stack.admin}/readyz")[0] == 503, "not ready")
    assert get(f"{stack.admin}/healthz")[0] == 200
    eventually(lambda: get(f"{stack.admin}/readyz")[0] == 200, "ready again")
    connection = http.client.HTTPConnection("127.0.0.1", int(stack.admin.rpartition(":")[2]), timeout=150)
    connection.request("POST", "/readyz")
    assert connection.getresponse().status == 405
    connection.close()
