"""HTTP/2 through the whole stack: clients that speak it, and gRPC end to end."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx2
import pytest
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack

from extproc.envoy.config import files
from extproc.history import bodies

SIZES = [0, 1, 400_000, 3_000_000]
"""None, held, held and almost too large for Envoy's buffer, streamed."""


@pytest.mark.parametrize("size", SIZES)
def test_a_client_that_speaks_http2(raw_stack: RunningStack, raw_backend: RawBackend, size: int) -> None:
    """Its request reaches an HTTP/1 backend with its content-length, and is recorded as it was sent."""
    lengths: list[str | None] = []

    def script(connection: Connection, head: Head) -> None:
        lengths.append(head.get("content-length"))
        body = connection.finish(head).body
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    path = raw_backend.on(script)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with httpx2.Client(http1=False, http2=True, timeout=150) as client:
        answer = client.post(raw_stack.url + path, content=body)
    assert (answer.http_version, answer.status_code, answer.content) == ("HTTP/2", 200, body)
    assert answer.headers["content-length"] == lengths[0] == str(size)
    exchange = raw_stack.exchange(answer.headers["x-audit-id"])
    assert bodies.whole(exchange, "request") == bodies.whole(exchange, "response") == body


def test_many_streams_on_one_connection(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Sixty requests at once over one connection: each has its own exchange."""

    def script(connection: Connection, head: Head) -> None:
        body = connection.finish(head).body
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    url = raw_stack.url + raw_backend.on(script)

    async def ask() -> list[httpx2.Response]:
        # Not by threads: one of httpx2's may wait for what another one has read.
        async with httpx2.AsyncClient(http1=False, http2=True, timeout=150) as client:
            return await asyncio.gather(*(client.post(url, content=b"%d" % number) for number in range(60)))

    answers = asyncio.run(ask())
    assert len(answers) == 60
    for number, answer in enumerate(answers):
        assert answer.content == b"%d" % number
        assert bodies.whole(raw_stack.exchange(answer.headers["x-audit-id"]), "request") == b"%d" % number


# gRPC ------------------------------------------------------------------------------------------------------


class Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A service of bytes: `/echo/Stream` says each message back, `/echo/Fail` ends with a status of its own."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        if details.method == "/echo/Stream":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if details.method == "/echo/Fail":
            return grpc.unary_unary_rpc_method_handler(self._fail)
        return None

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            yield b"echo " + message
        context.set_trailing_metadata((("x-sum", "42"),))

    def _fail(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more tokens")
        raise AssertionError


@pytest.fixture(scope="module")
def grpc_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack before a gRPC server: `llm` speaks HTTP/2, which is one line in clusters.yaml."""
    directory = tmp_path_factory.mktemp("grpc")
    text = (files.shipped() / "clusters.yaml").read_text(encoding="utf-8")
    changed = text.replace("        http_protocol_options:\n", "        http2_protocol_options: {}\n")
    changed = changed.replace("          enable_trailers: true\n", "")
    changed = (
        changed[: changed.index("  health_checks:")] + changed[changed.index("  typed_extension_protocol_options:") :]
    )
    (directory / "envoy").mkdir()
    (directory / "envoy" / "clusters.yaml").write_text(changed)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    arguments = (
        "--envoy-dir",
        directory / "envoy",
        "--backend",
        f"http://127.0.0.1:{port}",
        "--envoy-concurrency",
        "1",
    )
    with RunningStack(directory, *arguments) as stack:
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []
    server.stop(None).wait()


def test_a_grpc_stream(grpc_stack: RunningStack) -> None:
    """Messages both ways in turn, trailers at the end, status 0 in the record."""

    to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(f"127.0.0.1:{grpc_stack.port}") as channel:
        call = channel.stream_stream("/echo/Stream", bytes, bytes)(iter(to_send.get, None), timeout=150)
        replies = iter(call)
        for number in range(5):
            to_send.put(b"%d" % number)
            assert next(replies) == b"echo %d" % number
        to_send.put(None)
        assert list(replies) == []
        assert ("x-sum", "42") in [tuple(each) for each in call.trailing_metadata()]
    exchange = grpc_stack.exchange_of("/echo/Stream")
    assert (exchange.outcome, exchange.status) == ("ok", 200)
    assert present(exchange.response).ended_by == "trailers"
    assert dict(present(present(exchange.response).trailers))["grpc-status"] == "0"
    (terminal,) = [record for record in grpc_stack.records(exchange.id) if record["type"] == "response"]
    assert int(terminal["grpc_status"]) == 0


def test_a_grpc_error(grpc_stack: RunningStack) -> None:
    """A status in the trailers reaches the client and the record, with HTTP status 200."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_stack.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/echo/Fail", bytes, bytes)(b"x", timeout=150)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "no more tokens"
    exchange = grpc_stack.exchange_of("/echo/Fail")
    assert exchange.status == 200
    (terminal,) = [record for record in grpc_stack.records(exchange.id) if record["type"] == "response"]
    assert int(terminal["grpc_status"]) == 8
