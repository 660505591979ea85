"""What Envoy answers by itself, before the recorder or without it: listed once, with all that Envoy knows of it."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.commands import invoke
from support.exchanges import present
from support.raw import Closed, Connection
from support.stack import RunningStack, eventually

from extproc.envoy.config import files, source
from extproc.history.join import Exchange

POST = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"


def _change(documents: files.Documents) -> None:
    """A filter that denies before the recorder, a route for /v1 only, and a second for each of our answers."""
    for _, filters in source.find(documents[files.BOOTSTRAP], "http_filters"):
        filters.insert(0, _denier())
        for each in filters:
            if "message_timeout" in each.get("typed_config", {}):
                each["typed_config"]["message_timeout"] = "1s"
    documents[files.ROUTES]["resources"][0]["virtual_hosts"][0]["routes"][-1]["match"] = {"prefix": "/v1"}


def _denier() -> dict[str, Any]:
    policy = {"permissions": [{"url_path": {"path": {"prefix": "/v1/denied"}}}], "principals": [{"any": True}]}
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"denied": policy}},
        },
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack with such a configuration."""
    directory = tmp_path_factory.mktemp("local")
    documents = files.read(None)
    _change(documents)
    (directory / "envoy").mkdir()
    for name, document in documents.items():
        (directory / "envoy" / name).write_text(yaml.safe_dump(document, sort_keys=False))
    arguments = ("--envoy-concurrency", "1", "--envoy-dir", directory / "envoy")
    with RunningStack(directory / "up", *arguments, gate_timeout_seconds=0.3) as stack:
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []


def listed(stack: RunningStack, path: str) -> Exchange:
    """The one exchange of a path, with Envoy's word on it."""

    def whole() -> Exchange | None:
        found = [each for each in stack.exchanges() if each.path == path]
        assert len(found) <= 1
        return found[0] if found and found[0].access_log == "received" else None

    return eventually(whole, f"an exchange of {path}")


def status(stack: RunningStack, request: bytes) -> int | None:
    """The status of the answer; None where the connection is closed without one."""
    with Connection.to(stack.port) as client:
        client.send(request)
        try:
            return client.read_message().head.status
        except Closed:
            return None


NO_CHUNK_COUNT = 'extproc_unmatched_access_entries_total{reason="malformed_body"}'


def counted(stack: RunningStack, name: str) -> float:
    """A figure of the metrics; 0 where nothing has been counted."""
    with urllib.request.urlopen(f"{stack.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    ("path", "expected", "details"), [("/v1/denied/1", 403, "rbac_access_denied"), ("/none/1", 404, "route_not_found")]
)
def test_an_answer_of_envoys_own(stack: RunningStack, path: str, expected: int, details: str) -> None:
    """Method, path, client and times are there, whoever saw the request; `show` finds it."""
    assert status(stack, POST % path.encode()) == expected
    exchange = listed(stack, path)
    assert (exchange.outcome, exchange.class_, exchange.status) == ("local_reply", "local", expected)
    assert (exchange.method, exchange.authority) == ("POST", "a")
    assert present(exchange.client).startswith("127.0.0.1:")
    assert present(exchange.response_code_details).startswith(details)
    assert exchange.started_at <= present(exchange.ended_at)
    duration_ms = present(exchange.duration_ms)
    assert duration_ms >= 0
    if exchange.response is not None:
        first_ms, last_ms = present(exchange.response.first_byte_ms), present(exchange.response.last_byte_ms)
        assert 0 <= first_ms <= last_ms <= duration_ms
    shown = invoke("show", exchange.id, "--json", "--data-dir", stack.data_dir)
    assert json.loads(shown.stdout)["path"] == path


def test_what_is_no_http_is_listed_too(stack: RunningStack) -> None:
    """Envoy refuses it before any filter: there is nothing but its entry."""
    status(stack, b"GARBAGE\r\n\r\n")

    def found() -> Exchange | None:
        codec = [each for each in stack.exchanges() if str(each.response_code_details).startswith("http1.")]
        assert len(codec) <= 1
        return codec[0] if codec else None

    exchange = eventually(found, "its exchange")
    assert (exchange.outcome, exchange.method, exchange.worker) == ("local_reply", None, 0)


CHUNKED = b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
NO_CHUNK = {
    "with the headers": (CHUNKED + b"ZZ\r\n",),
    "behind a chunk": (CHUNKED + b"5\r\nhello\r\nZZ\r\n",),
    "once the recorder has it": (CHUNKED + b"5\r\nhello\r\n", b"ZZ\r\n"),
    "in place of trailers": (CHUNKED + b"5\r\nhello\r\n0\r\n", b"x y\r\n\r\n"),
}


@pytest.mark.parametrize("name", NO_CHUNK)
def test_a_body_that_is_no_http_is_the_clients_doing(stack: RunningStack, name: str) -> None:
    """One exchange, whether the recorder had heard of it or not, with method, path and route; `reconcile` and the
    metric have a word of their own for what Envoy did not hear of it, or it of Envoy."""
    path = f"/v1/chat/completions?{name.replace(' ', '-')}"
    before = counted(stack, NO_CHUNK_COUNT)
    first, *rest = NO_CHUNK[name]
    with Connection.to(stack.port) as client:
        client.send(first % path.encode())
        for part in rest:
            eventually(lambda: any(each.path == path for each in stack.exchanges()), "its beginning")
            client.send(part)
        with pytest.raises(Closed):
            client.read_head()
    exchange = listed(stack, path)
    assert (exchange.outcome, exchange.class_) == ("client_cancel_before_first_byte", "client")
    assert (exchange.method, exchange.route, exchange.response_flags) == ("POST", "default", ["DPE"])
    assert exchange.response_code_details == "http1.codec_error"
    heard = any(record["type"] == "response" and record["id"] == exchange.id for record in stack.records())
    found = invoke("reconcile", "--json", "--data-dir", stack.data_dir)
    reasons = [line["reason"] for line in map(json.loads, found.stdout.splitlines()) if line["path"] == path]
    entries = [record for record in stack.records() if record["type"] == "access" and record["path"] == path]
    assert reasons == ["malformed_body" for entry in entries if entry["id"] is None]
    assert heard or not rest
    if not heard:
        eventually(lambda: counted(stack, NO_CHUNK_COUNT) > before, "its count")


def test_a_recorder_that_hangs_before_the_request_leaves_one_exchange(stack: RunningStack) -> None:
    """Envoy's entry names none; the worker, once it goes on, writes down what had been waiting: the same one."""
    path, pid = "/v1/chat/completions?hung=1", stack.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = status(stack, POST % path.encode())
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer is not None
    assert answer >= 500
    exchange = listed(stack, path)
    assert (exchange.outcome, exchange.class_) == ("recorder_failed", "sidecar")
    assert present(exchange.response_code_details).startswith("ext_proc_error")


def test_the_metrics_have_them(stack: RunningStack) -> None:
    """By whose doing it was, as `log` has them."""
    path = "/none/measured"
    assert status(stack, POST % path.encode()) == 404
    listed(stack, path)
    name = 'extproc_exchange_results_total{class="local",outcome="local_reply",status="4xx"}'
    eventually(lambda: counted(stack, name) >= 1, "its count")
