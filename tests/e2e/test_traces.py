"""One trace in a real Jaeger: Envoy's spans, and ours beneath them; and what a bad collector holds up: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support.exchanges import present
from support.jaeger import BUILD_SECONDS, Jaeger, Span, go
from support.raw import Closed, Connection, Head, RawBackend
from support.stack import RunningStack, eventually

from extproc.envoy.config import files

INGRESS: Final = "ingress"
EXT_PROC: Final = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"
UPSTREAM: Final = "router llm egress"
SPANS: Final = 4
"""Those of one exchange: three of Envoy's and ours."""
SECRET: Final = "sk-canary-in-a-header"
CANARY: Final = "canary in a prompt"

pytestmark = [
    pytest.mark.skipif(go() is None, reason="Go is missing, and Jaeger is built with it"),
    pytest.mark.timeout(BUILD_SECONDS + 60),  # whichever test comes first waits for the build
]


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """A Jaeger for this module."""
    with Jaeger(tmp_path_factory.mktemp("jaeger")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[RunningStack]:
    """The whole stack, its spans going there."""
    directory = tmp_path_factory.mktemp("traced")
    with RunningStack(directory, "--otlp", jaeger.otlp, "--envoy-concurrency", "1") as stack:
        yield stack


def ask(stack: RunningStack, *, stream: bool, **headers: str) -> str:
    """Send a chat completion; the id of its exchange."""
    body: dict[str, Any] = {
        "model": "demo",
        "stream": stream,
        "temperature": 0.5,
        "max_tokens": 3,
        "seed": 7,
        "messages": [{"role": "user", "content": CANARY}],
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    head = {"content-type": "application/json", "authorization": f"Bearer {SECRET}"} | headers
    request = urllib.request.Request(f"{stack.url}/v1/chat/completions?key=k", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=150) as answer:
        answer.read()
        return str(answer.headers["x-audit-id"])


def traceparent(trace_id: str, flags: str = "01") -> tuple[str, str]:
    """A header of a client's own, and the id of the span it names."""
    span_id = secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-{flags}", span_id


def recorded(stack: RunningStack, id: str) -> dict[str, Any]:
    """The request record of an exchange."""
    return next(record for record in stack.records(id) if record["type"] == "request")


def test_one_trace_holds_envoys_spans_and_ours(stack: RunningStack, jaeger: Jaeger) -> None:
    """Envoy's server span, its client spans for the ext_proc call and for the backend's, and ours."""
    id = ask(stack, stream=True)
    record = recorded(stack, id)
    spans = jaeger.trace(record["trace_id"], SPANS)
    assert set(spans) == {INGRESS, EXT_PROC, UPSTREAM, "chat demo"}
    server, client, ours = spans[INGRESS], spans[EXT_PROC], spans["chat demo"]
    assert (server.parent, client.parent, ours.parent) == (None, server.span_id, client.span_id)
    assert spans[UPSTREAM].parent == server.span_id
    assert (server.service, client.service, ours.service) == ("envoy", "envoy", "extproc")
    assert ours.span_id == record["span_id"]
    assert (server.tags["span.kind"], client.tags["span.kind"]) == ("server", "client")
    assert spans[UPSTREAM].tags["span.kind"] == "client"


def test_one_tree_from_the_client_to_the_engine(tmp_path: Path, jaeger: Jaeger) -> None:
    """An engine that goes by its `traceparent` has its spans beneath Envoy's call of it, and nowhere else; a call that
    failed and was tried again is a span of its own, and what the backend did about it hangs there."""
    engine = Tracer("engine", jaeger)

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        with engine.span("generate", head.get("traceparent") or ""):
            if head.get("x-envoy-attempt-count") == "1":
                connection.reset()
            else:
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    client_tracer = Tracer("client", jaeger)
    with (
        RawBackend() as backend,
        RunningStack(
            tmp_path / "up",
            *("--backend", backend.url, "--otlp", jaeger.otlp, "--envoy-concurrency", "1"),
            *("--envoy-dir", _with_retries(tmp_path / "envoy")),
        ) as stack,
        Connection.to(stack.port) as client,
    ):
        path = backend.on(script, "/v1/chat/completions?api_key=sk-in-a-query&number=")
        with client_tracer.span("ask", None) as header:
            body = b'{"model":"m","messages":[]}'
            head = f"POST {path} HTTP/1.1\r\nhost: a\r\ntraceparent: {header}\r\ncontent-length: {len(body)}\r\n\r\n"
            client.send(head.encode() + body)
            assert client.read_message().head.status == 200
        engine.close()
        client_tracer.close()
        trace_id = header.split("-")[1]
        spans = eventually(lambda: _all_of(jaeger, trace_id, 8), "all spans of the trace")
    by_id = {span.span_id: span for span in spans}

    def way(span: Span) -> list[str]:
        above = by_id.get(span.parent or "")
        return [*(way(above) if above is not None else []), span.name]

    assert sorted(map(way, spans)) == sorted(
        [
            ["ask"],
            ["ask", INGRESS],
            ["ask", INGRESS, EXT_PROC],
            ["ask", INGRESS, EXT_PROC, "chat m"],
            *[["ask", INGRESS, UPSTREAM]] * 2,
            *[["ask", INGRESS, UPSTREAM, "generate"]] * 2,
        ]
    )
    assert len({span.parent for span in spans if span.name == "generate"}) == 2
    assert {span.service for span in spans} == {"client", "envoy", "extproc", "engine"}
    assert [span.text for span in spans if "sk-in-a-query" in span.text] == []


def _with_retries(directory: Path) -> Path:
    """An Envoy directory whose default route tries again, and says in a header which attempt it is."""
    documents = files.read(None)
    (host,) = documents[files.ROUTES]["resources"][0]["virtual_hosts"]
    host["include_request_attempt_count"] = True
    host["routes"][-1]["route"]["retry_policy"] = {"retry_on": "reset", "num_retries": 1}
    directory.mkdir(parents=True)
    (directory / files.ROUTES).write_text(yaml.safe_dump(documents[files.ROUTES], sort_keys=False))
    return directory


def _all_of(jaeger: Jaeger, trace_id: str, count: int) -> list[Span] | None:
    found = {
        span.span_id: span
        for service in jaeger.services()
        for span in jaeger.spans(service)
        if span.trace_id == trace_id
    }
    return list(found.values()) if len(found) >= count else None


class Tracer:
    """OpenTelemetry's own SDK in another program of the trace."""

    def __init__(self, service: str, jaeger: Jaeger) -> None:
        self._provider = TracerProvider(resource=Resource({"service.name": service}))
        self._provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(jaeger.otlp, insecure=True)))
        self._tracer = self._provider.get_tracer(service)
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def span(self, name: str, parent: str | None) -> Iterator[str]:
        """A span under this `traceparent`, or a root; gives the `traceparent` for what is under it."""
        context = None if parent is None else self._propagator.extract({"traceparent": parent})
        with self._tracer.start_as_current_span(name, context):
            carrier: dict[str, str] = {}
            self._propagator.inject(carrier)
            yield carrier["traceparent"]

    def close(self) -> None:
        """Everything is exported."""
        self._provider.shutdown()


@pytest.mark.parametrize("stream", [False, True])
def test_attributes(stack: RunningStack, jaeger: Jaeger, stream: bool) -> None:
    """Each of them, as the conventions name it and the record has it."""
    id = ask(stack, stream=stream)
    ours = jaeger.trace(recorded(stack, id)["trace_id"], SPANS)["chat demo"]
    exchange = eventually(
        lambda: next((each for each in stack.exchanges() if each.id == id and each.envoy), None), "its entry"
    )
    llm = present(exchange.llm)
    host, port = present(exchange.upstream).split(":")
    expected = {
        "span.kind": "client",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.response.id": llm.response_id,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.seed": 7,
        "gen_ai.response.finish_reasons": '["length"]',
        "gen_ai.usage.input_tokens": present(llm.usage)["prompt_tokens"],
        "gen_ai.usage.output_tokens": 3,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "server.address": host,
        "server.port": int(port),
        "client.address": "127.0.0.1",
        "extproc.exchange.id": id,
        "extproc.outcome": "ok",
        "extproc.worker": 0,
        "extproc.upstream.cluster": "llm",
        "extproc.route": "default",
        "extproc.attempts": 1,
        "extproc.response_code_details": "via_upstream",
        "extproc.fingerprint": llm.fingerprint,
        "http.request.body.size": present(exchange.request).bytes,
        "http.response.body.size": present(exchange.response).bytes,
        "otel.scope.name": "extproc",
    }
    if stream:
        expected |= {
            "gen_ai.request.stream": True,
            "gen_ai.response.time_to_first_chunk": pytest.approx(present(llm.ttft_ms) / 1000),
        }
    assert {name: value for name, value in ours.tags.items() if name != "otel.scope.version"} == expected
    assert ours.duration == pytest.approx(present(exchange.duration_ms) * 1000, abs=2)
    events = [name for name, _ in ours.events]
    assert events == ["first byte", "first token", "end of stream"]
    times = [at for _, at in ours.events]
    assert ours.start <= times[0] <= times[1] <= times[2] <= ours.start + ours.duration


def test_a_clients_own_trace_goes_on(stack: RunningStack, jaeger: Jaeger) -> None:
    """Its span is the root: Envoy's is under it."""
    trace_id = secrets.token_hex(16)
    header, span_id = traceparent(trace_id)
    ask(stack, stream=False, traceparent=header)
    spans = jaeger.trace(trace_id, SPANS)
    assert spans[INGRESS].parent == span_id
    assert spans["chat demo"].parent == spans[EXT_PROC].span_id


def test_a_trace_that_is_not_sampled_stays_so(stack: RunningStack, jaeger: Jaeger) -> None:
    """The client has decided: there is a record, and no span."""
    header, _ = traceparent(secrets.token_hex(16), "00")
    unsampled = ask(stack, stream=False, traceparent=header)
    ask(stack, stream=False)
    last = ask(stack, stream=False)
    eventually(lambda: last in _ids(jaeger), "the span of a later exchange")
    assert unsampled not in _ids(jaeger)


def _ids(jaeger: Jaeger) -> set[str]:
    return {span.tags["extproc.exchange.id"] for span in jaeger.spans("extproc")}


def test_nothing_that_was_said_is_in_a_span(stack: RunningStack, jaeger: Jaeger) -> None:
    """Neither the prompt, nor the answer, nor a credential, in any span of ours."""
    id = ask(stack, stream=False)
    eventually(lambda: id in _ids(jaeger), "its span")
    answer = next(each for each in stack.exchanges() if each.id == id)
    said = json.loads(urllib_body(stack, id))["choices"][0]["message"]["content"]
    assert present(answer.llm).output_chars == len(said)
    for span in jaeger.spans("extproc"):
        for secret in (CANARY, SECRET, said, "key=k"):
            assert secret not in span.text


CREDENTIALS: Final = {
    "query": "/v1/chat/completions?key=CANARY&api_key=CANARY;access_token=CANARY",
    "signed": "/v1/chat/completions?sv=1&sig=CANARY&X-Amz-Signature=CANARY&client_secret=CANARY",
    "within": "/v1/chat/completions?next=https%3A%2F%2Fh%2F%3Fkey%3DCANARY",
    "segment": "/v1/sk-CANARY/chat/completions",
    "absolute": "/v1/chat/completions;token=CANARY?a=1",
}


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc"])
@pytest.mark.parametrize("place", CREDENTIALS)
def test_no_credential_is_in_any_span_of_any_service(
    stack: RunningStack, jaeger: Jaeger, place: str, content_type: str
) -> None:
    """Not in ours, not in Envoy's, wherever in the request's target it stands; nor do headers reach a span."""
    canary, trace_id = f"canary{secrets.token_hex(8)}", secrets.token_hex(16)
    head = [
        f"POST {CREDENTIALS[place].replace('CANARY', canary)} HTTP/1.1",
        *(
            f"host: u:{canary}@a",
            "content-length: 2",
            f"content-type: {content_type}",
            f"traceparent: {traceparent(trace_id)[0]}",
        ),
        *(f"authorization: Bearer {canary}", f"x-acme-key: {canary}", f"referer: http://{canary}@h/?key={canary}"),
    ]
    with Connection.to(stack.port) as client:
        client.send("\r\n".join([*head, "", "{}"]).encode())
        client.read_head()
    jaeger.trace(trace_id, SPANS)
    services = jaeger.services()
    assert {"envoy", "extproc"} <= set(services)
    spans = [span for service in services for span in jaeger.spans(service)]
    assert {span.service for span in spans if span.trace_id == trace_id} >= {"envoy", "extproc"}
    assert [span.text for span in spans if canary in span.text] == []


def urllib_body(stack: RunningStack, id: str) -> bytes:
    """The recorded answer of an exchange."""
    record = next(each for each in stack.records(id) if each["type"] == "response")
    return str(record["response"]["body"]["text"]).encode()


def test_show_prints_the_way_to_jaeger(stack: RunningStack, jaeger: Jaeger, tmp_path: Path) -> None:
    """The link leads to the trace."""
    from support.commands import run  # noqa: PLC0415

    id = ask(stack, stream=False)
    trace_id = recorded(stack, id)["trace_id"]
    env = {"EXTPROC_JAEGER_URL": jaeger.url}
    shown = run("show", id, "--data-dir", stack.data_dir, cwd=tmp_path, env=env).stdout.decode()
    assert f"{jaeger.url}/trace/{trace_id}" in shown


# However it ends -------------------------------------------------------------------------------------------


def _hanging(connection: Connection, head: Head) -> None:
    connection.finish(head)
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.send(b"%x\r\n%b\r\n" % (len(event), event))
    connection.read_to_end()


def _begun(stack: RunningStack, backend: RawBackend) -> Connection:
    """A client in the middle of an answer."""
    path = backend.on(_hanging, "/v1/chat/completions?number=")
    client = Connection.to(stack.port)
    body = b'{"model":"m","stream":true,"messages":[]}'
    client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
    client.read_head()
    client.read_chunk()
    return client


def _one_span(jaeger: Jaeger, outcome: str) -> Span:
    def found() -> Span | None:
        spans = [span for span in jaeger.spans("extproc") if span.tags["extproc.outcome"] == outcome]
        assert len(spans) <= 1
        return spans[0] if spans else None

    return eventually(found, f"the span of {outcome}")


def test_a_span_for_each_way_out(tmp_path: Path, jaeger: Jaeger) -> None:
    """The client that leaves, the sidecar that dies, the stack that is stopped: each exchange has one span."""
    with (
        RawBackend() as backend,
        RunningStack(
            tmp_path,
            *("--backend", backend.url, "--otlp", jaeger.otlp, "--envoy-concurrency", "1"),
            drain_seconds=0.2,
        ) as stack,
    ):
        _begun(stack, backend).close()
        left = _one_span(jaeger, "client_cancel_mid_stream")
        assert left.tags["error.type"] == "client_cancel_mid_stream"
        assert "error" not in left.tags
        with _begun(stack, backend) as client:
            os.kill(stack.workers()[0], signal.SIGKILL)
            with pytest.raises(Closed):
                client.read_chunk()
        orphan = _one_span(jaeger, "sidecar_restart_orphan")
        assert (orphan.name, orphan.tags["error"]) == ("chat m", True)
        eventually(lambda: stack.workers() and _is_ready(stack), "the worker's return")
        with _begun(stack, backend):
            assert stack.stop() == 0
        _one_span(jaeger, "proxy_drain")


def _is_ready(stack: RunningStack) -> bool:
    try:
        with urllib.request.urlopen(f"{stack.admin}/readyz"):
            return True
    except OSError:
        return False


# Bad collectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["down", "silent", "rude"])
def test_a_bad_collector_holds_nothing_up(tmp_path: Path, kind: str) -> None:
    """Nobody listens, somebody who never answers, somebody who hangs up: the same bytes, and a stop in time."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        url = f"http://127.0.0.1:{collector.getsockname()[1]}"
        if kind == "down":
            collector.close()
        elif kind == "rude":
            threading.Thread(target=_hang_up, args=(collector,), daemon=True).start()
        with RunningStack(tmp_path, "--otlp", url, "--envoy-concurrency", "1") as stack:
            ids = [ask(stack, stream=True) for _ in range(5)]
            eventually(lambda: _counted(stack, "extproc_exchanges_total", 'outcome="ok"') == 5, "the metrics")
            assert len(set(ids)) == 5
            assert stack.stop() == 0
        assert stack.findings() == []


def _hang_up(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.close()


def _counted(stack: RunningStack, name: str, label: str) -> float:
    with urllib.request.urlopen(f"{stack.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{{label}")), 0.0)
