"""Why an exchange ended, for every outcome there is, provoked with the real Envoy and told by its access log."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from support.exchanges import present
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually

from extproc.core.outcome import Outcome
from extproc.envoy.config import files, source
from extproc.history.join import Exchange

CHAT: Final = "/v1/chat/completions?number="
PROMPT: Final = b'{"model":"m","stream":true,"messages":[]}'
EVENT: Final = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
FINISH: Final = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
ERROR: Final = b'data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n'
DONE: Final = b"data: [DONE]\n\n"
STREAM: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def post(path: str, *headers: str, body: bytes = PROMPT) -> bytes:
    """A request."""
    more = "".join(f"{header}\r\n" for header in headers).encode()
    return b"POST %b HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n%b" % (path.encode(), more, len(body), body)


def overlay(directory: Path, change: Callable[[files.Documents], None]) -> Path:
    """An Envoy directory with the shipped files, changed."""
    documents = files.read(None)
    change(documents)
    directory.mkdir()
    for name, document in documents.items():
        (directory / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return directory


def _routes(documents: files.Documents) -> None:
    """Routes with limits of their own before the shipped ones."""
    routes = documents["routes.yaml"]["resources"][0]["virtual_hosts"][0]["routes"]
    actions: dict[str, dict[str, Any]] = {
        "slow": {"timeout": "0.3s"},
        "try": {"timeout": "0s", "retry_policy": {"retry_on": "5xx", "per_try_timeout": "0.3s", "num_retries": 1}},
        "idle": {"timeout": "0s", "idle_timeout": "0.3s"},
        "lasting": {"timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.3s"}},
        # The answer has to begin before, on a busy machine, too.
        "slow-later": {"timeout": "2s"},
        "idle-later": {"timeout": "0s", "idle_timeout": "2s"},
        "lasting-later": {"timeout": "0s", "max_stream_duration": {"max_stream_duration": "2s"}},
        "empty": {"cluster": "empty"},
    }
    for name, action in actions.items():
        routes.insert(0, {"name": name, "match": {"prefix": f"/{name}/"}, "route": {"cluster": "llm"} | action})
    limit = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "none",
        "token_bucket": {"max_tokens": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": {"numerator": 100}},
        "filter_enforced": {"default_value": {"numerator": 100}},
    }
    limiter = "envoy.filters.http.local_ratelimit"
    routes.insert(
        0,
        {
            "name": "limited",
            "match": {"prefix": "/limited/"},
            "route": {"cluster": "llm"},
            "typed_per_filter_config": {limiter: limit},
        },
    )
    routes.insert(0, {"name": "nowhere", "match": {"prefix": "/nowhere/"}, "route": {"cluster_header": "host"}})
    documents["clusters.yaml"]["resources"].append(
        {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "empty",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "empty"},
        }
    )


@pytest.fixture(scope="module")
def backend() -> Iterator[RawBackend]:
    """The backend behind the stack of this module."""
    with RawBackend() as backend:
        yield backend
        assert backend.errors == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, backend: RawBackend) -> Iterator[RunningStack]:
    """A stack whose routes have short limits."""
    directory = tmp_path_factory.mktemp("outcomes")
    routes = overlay(directory / "envoy", _routes)
    arguments = ("--backend", backend.url, "--envoy-concurrency", "1", "--envoy-dir", routes)
    with RunningStack(directory / "up", *arguments) as stack:
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []


def told(stack: RunningStack, path: str) -> Exchange:
    """The exchange of a path once Envoy has had its say, whose record must agree with what went before."""

    def whole() -> Exchange | None:
        found = stack.exchange_of(path)
        return found if found.access_log == "received" else None

    exchange = eventually(whole, f"Envoy's word on {path}")
    assert exchange.integrity == []
    return exchange


def facts(exchange: Exchange) -> tuple[Any, ...]:
    """What Envoy says of an exchange."""
    return exchange.outcome, exchange.response_flags, exchange.response_code_details


# The client goes -------------------------------------------------------------------------------------------


def test_the_client_leaves_before_the_first_byte(stack: RunningStack, backend: RawBackend) -> None:
    """While the backend still thinks."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        seen.set()
        connection.read_to_end()

    seen = threading.Event()
    path = backend.on(script, CHAT)
    with Connection.to(stack.port) as client:
        client.send(post(path))
        assert seen.wait(150)
    exchange = told(stack, path)
    assert facts(exchange) == ("client_cancel_before_first_byte", ["DC"], "downstream_remote_disconnect")
    assert (exchange.upstream, exchange.cluster) == (f"127.0.0.1:{backend.port}", "llm")
    assert (exchange.route, exchange.attempts) == ("default", 1)


@pytest.mark.parametrize("reset", [False, True])
def test_the_client_leaves_in_mid_stream(stack: RunningStack, backend: RawBackend, reset: bool) -> None:
    """After the first token, by closing or by a reset."""
    path = backend.on(_streams(EVENT), CHAT)
    with Connection.to(stack.port) as client:
        client.send(post(path))
        client.read_head()
        assert client.read_chunk() == EVENT
        if reset:
            client.reset()
    assert facts(told(stack, path)) == ("client_cancel_mid_stream", ["DC"], "downstream_remote_disconnect")


def test_the_client_leaves_in_mid_upload(stack: RunningStack, backend: RawBackend) -> None:
    """What it had sent is recorded; there is no answer."""
    path = backend.on(_streams(), CHAT)
    with Connection.to(stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        client.send(chunk(b"x" * 1000))
        eventually(lambda: any(each.get("path") == path for each in stack.records()), "its open record")
    assert facts(told(stack, path)) == ("client_cancel_before_first_byte", ["DC"], "downstream_remote_disconnect")


def test_the_client_leaves_after_done(stack: RunningStack, backend: RawBackend) -> None:
    """It has all that it wanted."""
    path = backend.on(_streams(EVENT, FINISH, DONE), CHAT)
    with Connection.to(stack.port) as client:
        client.send(post(path))
        client.read_head()
        body = b""
        while not body.endswith(DONE):
            body += client.read_chunk()
    assert facts(told(stack, path)) == ("ok_client_left_after_terminal", ["DC"], "downstream_remote_disconnect")


def test_an_http2_client_resets_its_stream(stack: RunningStack, backend: RawBackend, tmp_path: Path) -> None:
    """The connection goes on; only the stream is cut."""
    path = backend.on(_streams(EVENT), CHAT)
    command = ["curl", "-sN", "--http2-prior-knowledge", "-d", PROMPT.decode(), f"{stack.url}{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as client:
        assert client.stdout is not None
        assert client.stdout.readline()
        client.kill()
    exchange = told(stack, path)
    assert (exchange.outcome, present(exchange.envoy).http_version) == ("client_cancel_mid_stream", "HTTP/2")


# The backend goes ------------------------------------------------------------------------------------------


def test_the_backend_resets_before_its_answer(stack: RunningStack, backend: RawBackend) -> None:
    """Envoy's 503 stands in its place."""
    path = backend.on(lambda connection, head: connection.reset(), CHAT)
    exchange = answered(stack, path)
    assert exchange.outcome == "upstream_reset_before_headers"
    assert present(exchange.response_code_details).startswith("upstream_reset_before_response_started{")
    assert (exchange.status, exchange.response_flags, exchange.attempts) == (503, ["UC"], 1)


def test_the_backend_resets_in_mid_stream(stack: RunningStack, backend: RawBackend) -> None:
    """A chunked answer without its terminator."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT))
        assert has_it.wait(150)
        connection.reset()

    has_it = threading.Event()
    path = backend.on(script, CHAT)
    with Connection.to(stack.port) as client:
        client.send(post(path))
        client.read_head()
        assert client.read_chunk() == EVENT
        has_it.set()
        with pytest.raises(Closed):
            client.read_chunk()
    exchange = told(stack, path)
    assert (exchange.outcome, exchange.response_flags) == ("upstream_reset_mid_stream", ["UPE"])


def test_the_backend_closes_with_too_few_bytes(stack: RunningStack, backend: RawBackend) -> None:
    """It had announced more."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789")
        assert has_it.wait(150)
        connection.close()

    has_it = threading.Event()
    path = backend.on(script)
    with Connection.to(stack.port) as client:
        client.send(post(path))
        client.read_head()
        assert client.read_exactly(10) == b"0123456789"
        has_it.set()
        with pytest.raises(Closed):
            client.read_exactly(1)
    assert told(stack, path).outcome == "upstream_truncated"


def test_a_stream_ends_without_its_mark(stack: RunningStack, backend: RawBackend) -> None:
    """Cleanly by its framing, with neither `[DONE]` nor a finish reason."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT) + chunk(b""))

    exchange = answered(stack, backend.on(script, CHAT))
    assert facts(exchange) == ("upstream_truncated", [], "via_upstream")


def test_the_backend_answers_with_an_error(stack: RunningStack, backend: RawBackend) -> None:
    """Its own status."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno")

    exchange = answered(stack, backend.on(script, CHAT))
    assert facts(exchange) == ("upstream_error_status", [], "via_upstream")
    assert exchange.class_ == "upstream"


@pytest.mark.parametrize(("status", "kind"), [(400, "client"), (404, "client"), (429, "limited"), (408, "upstream")])
def test_the_backend_will_not_have_a_request(stack: RunningStack, backend: RawBackend, status: int, kind: str) -> None:
    """By its own status, which tells the client's mistake from the backend's."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\nno" % status)

    exchange = answered(stack, backend.on(script, CHAT))
    assert (exchange.outcome, exchange.status, exchange.class_) == ("upstream_error_status", status, kind)


def test_an_error_in_a_stream_that_began_well(stack: RunningStack, backend: RawBackend) -> None:
    """Status 200 and even `[DONE]` make it no success."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT) + chunk(ERROR) + chunk(DONE) + chunk(b""))

    assert facts(answered(stack, backend.on(script, CHAT))) == ("upstream_error_frame", [], "via_upstream")


def test_a_good_answer(stack: RunningStack, backend: RawBackend) -> None:
    """For comparison, with every fact that Envoy adds."""
    exchange = answered(stack, backend.on(_answers, CHAT))
    assert facts(exchange) == ("ok", [], "via_upstream")
    envoy = present(exchange.envoy)
    assert (envoy.request_bytes, envoy.response_bytes) == (len(PROMPT), 2)
    assert present(envoy.duration_ms) > 0
    times = present(envoy.times_ms)
    assert times["last_request_byte"] <= times["last_upstream_request_byte"] <= times["first_upstream_response_byte"]


def test_nobody_listens(tmp_path: Path) -> None:
    """The backend's port is closed."""
    gone = RawBackend()
    with gone, RunningStack(tmp_path, "--backend", gone.url, "--envoy-concurrency", "1") as stack:
        gone.stop()
        exchange = answered(stack, CHAT)
        assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
        assert present(exchange.envoy).upstream_failure


# Limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "flags", "details"),
    [
        ("slow", ["UT"], "response_timeout"),
        ("try", ["UT", "URX"], "upstream_per_try_timeout"),
        ("idle", ["SI"], "stream_idle_timeout"),
        ("lasting", [], "max_duration_timeout"),
    ],
)
def test_a_backend_that_is_too_slow(
    stack: RunningStack, backend: RawBackend, route: str, flags: list[str], details: str
) -> None:
    """Before the answer has begun, whichever limit it meets."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.read_to_end()

    exchange = answered(stack, backend.on(script, f"/{route}/"))
    assert facts(exchange) == ("upstream_timeout", flags, details)
    assert exchange.attempts == (2 if route == "try" else 1)


def test_the_client_is_told_of_a_time_limit_also_after_a_retry(stack: RunningStack, backend: RawBackend) -> None:
    """Envoy's flags name the limit of retries as well, but that is not what was wrong."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.read_to_end()

    with Connection.to(stack.port) as client:
        client.send(post(backend.on(script, "/try/")))
        message = client.read_message()
    assert message.head.status == 504
    assert json.loads(message.body)["error"]["code"] == "upstream_timeout"


@pytest.mark.parametrize(("route", "flags"), [("slow-later", ["UT"]), ("idle-later", ["SI"]), ("lasting-later", [])])
def test_a_stream_that_falls_silent(stack: RunningStack, backend: RawBackend, route: str, flags: list[str]) -> None:
    """The same in the middle of the answer."""
    path = backend.on(_streams(EVENT), f"/{route}/v1/chat/completions?number=")
    with Connection.to(stack.port) as client:
        client.send(post(path))
        assert client.read_head().status == 200
        assert client.read_chunk() == EVENT
        with pytest.raises(Closed):
            client.read_chunk()
    exchange = told(stack, path)
    assert (exchange.outcome, exchange.response_flags) == ("upstream_timeout", flags)


# Envoy answers ---------------------------------------------------------------------------------------------


def test_too_large_a_request(stack: RunningStack, backend: RawBackend) -> None:
    """413, before the body is sent."""
    path = backend.on(_answers)
    with Connection.to(stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n" % path.encode())
        assert client.read_message().head.status == 413
    exchange = told(stack, path)
    assert (exchange.outcome, exchange.status) == ("local_reply", 413)


def test_too_many_requests(stack: RunningStack, backend: RawBackend) -> None:
    """429 by Envoy's rate limit: the first one passes."""
    paths = [backend.on(_answers, "/limited/") for _ in range(2)]
    assert answered(stack, paths[0]).outcome == "ok"
    exchange = answered(stack, paths[1])
    assert facts(exchange) == ("local_reply", ["RL"], "local_rate_limited")
    assert (exchange.status, exchange.upstream) == (429, None)


def test_no_healthy_upstream(stack: RunningStack) -> None:
    """A cluster without endpoints: named in the record."""
    exchange = answered(stack, "/empty/1")
    assert facts(exchange) == ("local_reply", ["UH"], "no_healthy_upstream")
    assert (exchange.status, exchange.cluster) == (503, "empty")


def test_a_cluster_that_does_not_exist(stack: RunningStack) -> None:
    """A route goes where a header says."""
    exchange = answered(stack, "/nowhere/1")
    assert facts(exchange) == ("local_reply", ["NC"], "cluster_not_found")


# The sidecar -----------------------------------------------------------------------------------------------


def test_the_sidecar_dies(tmp_path: Path, backend: RawBackend) -> None:
    """By kill -9 in mid-stream: an orphan. Envoy's entry had nowhere to go."""
    path = backend.on(_streams(EVENT), CHAT)
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        with Connection.to(stack.port) as client:
            client.send(post(path))
            client.read_head()
            assert client.read_chunk() == EVENT
            os.kill(stack.workers()[0], signal.SIGKILL)
            with pytest.raises(Closed):
                client.read_chunk()
        exchange = stack.exchange_of(path)
        assert (exchange.outcome, exchange.class_) == ("sidecar_restart_orphan", "sidecar")


def _impatient(documents: files.Documents) -> None:
    """The recorder has a second for a message."""
    for _, filters in source.find(documents[files.BOOTSTRAP], "http_filters"):
        for each in filters:
            if "message_timeout" in each.get("typed_config", {}):
                each["typed_config"]["message_timeout"] = "1s"


def test_the_recorder_hangs(tmp_path: Path, backend: RawBackend) -> None:
    """A worker that is stopped in mid-stream: Envoy cuts the client off, and it was our doing."""
    directory = overlay(tmp_path / "envoy", _impatient)
    arguments = ("--backend", backend.url, "--envoy-concurrency", "1", "--envoy-dir", directory)
    go_on = threading.Event()

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + chunk(EVENT))
        assert go_on.wait(150)
        connection.send(chunk(EVENT))
        connection.read_to_end()

    path = backend.on(script, CHAT)
    with RunningStack(tmp_path / "up", *arguments, gate_timeout_seconds=0.3) as stack:
        pid = stack.workers()[0]
        with Connection.to(stack.port) as client:
            client.send(post(path))
            client.read_head()
            assert client.read_chunk() == EVENT
            os.kill(pid, signal.SIGSTOP)
            try:
                go_on.set()
                with pytest.raises(Closed):
                    client.read_chunk()
            finally:
                os.kill(pid, signal.SIGCONT)
        exchange = told(stack, path)
        assert (exchange.outcome, exchange.class_) == ("recorder_failed", "sidecar")
        assert present(exchange.response_code_details).startswith("ext_proc_error")
        assert stack.stop() == 0
        assert stack.findings() == []


def test_the_stack_is_stopped(tmp_path: Path, backend: RawBackend) -> None:
    """What still runs after the grace ends as drained, and Envoy's last word is waited for."""
    path = backend.on(_streams(EVENT), CHAT)
    with RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1", drain_seconds=0.2) as stack:
        warm = backend.on(_answers)
        answered(stack, warm)
        with Connection.to(stack.port) as client:
            client.send(post(path))
            client.read_head()
            assert client.read_chunk() == EVENT
            assert stack.stop() == 0
        assert told(stack, path).outcome == "proxy_drain"
        assert stack.findings() == []


def test_what_cannot_be_recorded_is_rejected(tmp_path: Path, backend: RawBackend) -> None:
    """A journal that is full: 503 by us, and no exchange; one whose record came too late has our word in it."""
    with RunningStack(
        tmp_path,
        *("--backend", backend.url, "--envoy-concurrency", "1"),
        gate_timeout_seconds=0.3,
    ) as stack:
        warm = backend.on(_answers)
        answered(stack, warm)
        path = backend.on(_answers)
        pid = stack.workers()[0]
        with (
            Connection.to(stack.port) as client,
            subprocess.Popen(
                [
                    "strace",
                    "-f",
                    "-qq",
                    "-p",
                    str(pid),
                    "-e",
                    "trace=fdatasync",
                    "-e",
                    "inject=fdatasync:delay_enter=2s",
                ],
                stderr=subprocess.PIPE,
            ) as slow,
        ):
            eventually(lambda: b"TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_bytes(), "the tracer")
            client.send(post(path))
            answer = client.read_message()
            slow.terminate()
        assert answer.head.status == 503
        assert json.loads(answer.body)["error"]["code"] == "audit_unavailable"
        exchange = told(stack, path)
        assert exchange.outcome == "rejected_by_policy"


# Without Envoy's word --------------------------------------------------------------------------------------


def _no_access_log(documents: files.Documents) -> None:
    manager = documents[files.BOOTSTRAP]["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    del manager["typed_config"]["access_log"]


def test_without_the_access_log(tmp_path: Path, backend: RawBackend) -> None:
    """What state and frames can tell stays; who cut a stream off is unknown, and the record says why."""
    paths = [backend.on(_streams(EVENT), CHAT), backend.on(_answers, CHAT)]
    directory = overlay(tmp_path / "envoy", _no_access_log)
    with RunningStack(tmp_path / "up", "--backend", backend.url, "--envoy-dir", directory) as stack:
        with Connection.to(stack.port) as client:
            client.send(post(paths[0]))
            client.read_head()
            client.read_chunk()
        with Connection.to(stack.port) as client:
            client.send(post(paths[1]))
            client.read_message()

        def missing(path: str) -> Exchange | None:
            found = stack.exchange_of(path)
            return found if found.access_log == "missing" else None

        exchanges = [eventually(lambda path=path: missing(path), "the limit") for path in paths]  # type: ignore[misc]
    assert [exchange.outcome for exchange in exchanges] == ["unknown", "ok"]


# A client's word -------------------------------------------------------------------------------------------


def test_a_clients_request_id_joins_nothing(stack: RunningStack, backend: RawBackend) -> None:
    """Sent again and again, it is never the key; each exchange has its own entry."""
    paths = [backend.on(_answers, f"/raw/same/{number}/") for number in range(50)]
    with Connection.to(stack.port) as client:
        for path in paths:
            client.send(post(path, "x-request-id: 1", "x-audit-id: 1"))
            assert client.read_message().head.status == 200
    for path in paths:
        exchange = told(stack, path)
        assert exchange.access is not None
        assert exchange.access.path == path
        assert exchange.request_id == exchange.access.request_id


def test_what_passes_by_the_recorder_is_told_too(stack: RunningStack, backend: RawBackend) -> None:
    """An upgrade: an entry without an exchange, with the reason that its route gives."""

    def script(connection: Connection, head: Head) -> None:
        connection.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    path = backend.on(script)
    with Connection.to(stack.port) as client:
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" % path.encode())
        assert client.read_message().head.status == 403

    def entry() -> dict[str, Any] | None:
        return next((each for each in stack.records() if each.get("path") == path), None)

    record = eventually(entry, "its entry")
    assert (record["type"], record["id"], record["bypass"], record["status"]) == ("access", None, "upgrade", 403)


def test_every_outcome_is_shown() -> None:
    """The set is closed, and none of it is mere theory: each is what a test of this module asserts."""
    module = ast.parse(Path(__file__).read_text())
    tests = [each for each in module.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")]
    asserted = [each for test in tests for each in ast.walk(test) if isinstance(each, ast.Assert)]
    words = {each.value for found in asserted for each in ast.walk(found) if isinstance(each, ast.Constant)}
    assert {outcome.value for outcome in Outcome} - words == set()


# Scripts ---------------------------------------------------------------------------------------------------


def answered(stack: RunningStack, path: str) -> Exchange:
    """The exchange of a request that gets some answer, whole."""
    with Connection.to(stack.port) as client:
        client.send(post(path))
        client.read_message()
    return told(stack, path)


def _answers(connection: Connection, head: Head) -> None:
    connection.finish(head)
    connection.send(OK)


def _streams(*events: bytes) -> Callable[[Connection, Head], None]:
    """A script that streams these events and then waits until the connection goes."""

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(STREAM + b"".join(map(chunk, events)))
        connection.read_to_end()

    return script
