"""envoy/examples/grpc-backend: a gRPC server behind the same listener, with a real grpcio on both sides."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from support.exchanges import present
from support.recipes import Recipe
from support.stack import eventually

from extproc.history import bodies
from extproc.history.join import Exchange

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Model(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """An inference service of bytes. A method may have any number behind its name, to tell calls apart."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.hold = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        match details.method.split("/")[-1].rstrip("0123456789"):
            case "Infer":
                return grpc.unary_unary_rpc_method_handler(lambda message, _: message[::-1])
            case "Refuse":
                return grpc.unary_unary_rpc_method_handler(self._refuse)
            case "RefuseLate":
                return grpc.unary_unary_rpc_method_handler(self._refuse_late)
            case "Tokens":
                return grpc.unary_stream_rpc_method_handler(self._tokens)
            case "Break":
                return grpc.unary_stream_rpc_method_handler(self._break)
            case "Endless":
                return grpc.unary_stream_rpc_method_handler(self._endless)
            case "Chat":
                return grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)
        return None

    def _refuse(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more tokens")
        raise AssertionError

    def _refuse_late(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        context.send_initial_metadata((("x-model", "m"),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such tensor")
        raise AssertionError

    def _tokens(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.set_trailing_metadata((("x-tokens", str(int(message))),))
        for number in range(int(message)):
            yield b"token %d" % number

    def _break(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from self._tokens(message, context)
        context.abort(grpc.StatusCode.INTERNAL, "the engine is dead")

    def _endless(self, message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        yield b"first"
        self.hold.wait(150)


class Server:
    """A gRPC server with that service, and the health service that the recipe asks."""

    def __init__(self) -> None:
        self.model = Model()
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, handlers=[self.model], options=UNLIMITED)
        state = health.HealthServicer()
        state.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(state, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        """End what runs on it, and close its connections."""
        stopped = self._server.stop(None)
        self.model.hold.set()
        stopped.wait()
        self._pool.shutdown()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The server behind the cluster `grpc`."""
    server = Server()
    yield server
    server.stop()


@contextlib.contextmanager
def gateway(directory: Path, port: int) -> Iterator[Recipe]:
    """The recipe with the server at a port."""
    with Recipe("grpc-backend", directory, edit=lambda _, text: text.replace("9001", str(port))) as recipe:
        yield recipe
        assert recipe.stop() == 0
        assert recipe.findings() == []


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Recipe]:
    """The recipe before that server, which is healthy."""
    with gateway(tmp_path_factory.mktemp("grpc"), server.port) as recipe:
        eventually(lambda: recipe.envoy_stat("cluster.grpc.membership_healthy") == 1, "a healthy gRPC server")
        yield recipe


@pytest.fixture
def channel(recipe: Recipe) -> Iterator[grpc.Channel]:
    """A client of the gateway."""
    with grpc.insecure_channel(f"127.0.0.1:{recipe.port}", UNLIMITED) as channel:
        yield channel


numbers = itertools.count(1)


def new(method: str) -> str:
    """A path of its own for a call of this method."""
    return f"/inference.GRPCInferenceService/{method}{next(numbers)}"


def framed(messages: Iterable[bytes]) -> bytes:
    """Messages as they are on the wire: one byte for compression, four for the length."""
    return b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)


def settled(recipe: Recipe, path: str) -> Exchange:
    """The exchange of a call, with Envoy's word on it."""
    return recipe.settled(recipe.exchange_of(path).id)


def test_a_unary_call(recipe: Recipe, server: Server, channel: grpc.Channel) -> None:
    """The record has the bytes of both messages, where the call went and its status."""
    path, message = new("Infer"), bytes(range(256))
    assert channel.unary_unary(path, bytes, bytes)(message, timeout=150) == message[::-1]
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.status, exchange.grpc_status) == ("ok", 200, "0")
    assert (exchange.cluster, exchange.route) == ("grpc", "grpc")
    assert (exchange.upstream, exchange.attempts) == (f"127.0.0.1:{server.port}", 1)
    assert (exchange.response_flags, present(exchange.envoy).http_version) == ([], "HTTP/2")
    assert bodies.whole(exchange, "request") == framed([message])
    assert bodies.whole(exchange, "response") == framed([message[::-1]])
    assert present(exchange.response).ended_by == "trailers"


@pytest.mark.parametrize(
    ("method", "code", "ended_by"),
    [
        ("Refuse", grpc.StatusCode.RESOURCE_EXHAUSTED, "headers"),
        ("RefuseLate", grpc.StatusCode.INVALID_ARGUMENT, "trailers"),
        ("Missing", grpc.StatusCode.UNIMPLEMENTED, "headers"),
    ],
)
def test_a_call_that_fails(
    recipe: Recipe, channel: grpc.Channel, method: str, code: grpc.StatusCode, ended_by: str
) -> None:
    """With HTTP status 200, and the reason in headers alone ("trailers-only") or in trailers: it is not `ok`."""
    path = new(method)
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary(path, bytes, bytes)(b"x", timeout=150)
    assert failed.value.code() is code
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.status, exchange.grpc_status) == (
        "upstream_error_status",
        200,
        str(code.value[0]),
    )
    assert (present(exchange.response).ended_by, present(exchange.response).bytes) == (ended_by, 0)


def test_a_stream_of_answers(recipe: Recipe, channel: grpc.Channel) -> None:
    """Each message arrives, and the trailers after them."""
    path = new("Tokens")
    call = channel.unary_stream(path, bytes, bytes)(b"500", timeout=150)
    assert list(call) == (tokens := [b"token %d" % number for number in range(500)])
    assert ("x-tokens", "500") in [tuple(each) for each in call.trailing_metadata()]
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.grpc_status) == ("ok", "0")
    assert bodies.whole(exchange, "response") == framed(tokens)
    assert dict(present(present(exchange.response).trailers))["x-tokens"] == "500"


def test_a_stream_that_fails_half_way(recipe: Recipe, channel: grpc.Channel) -> None:
    """The messages before are there, at the client and in the record, and the status says that they are not all."""
    path = new("Break")
    messages: list[bytes] = []
    with pytest.raises(grpc.RpcError) as failed:
        messages.extend(channel.unary_stream(path, bytes, bytes)(b"3", timeout=150))
    assert messages == (sent := [b"token 0", b"token 1", b"token 2"])
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.grpc_status) == ("upstream_error_status", "13")
    assert bodies.whole(exchange, "response") == framed(sent)


def test_messages_in_turn(recipe: Recipe, channel: grpc.Channel) -> None:
    """Both ways on one call: each is passed on before the next one is sent."""
    path, to_send = new("Chat"), queue.SimpleQueue[bytes | None]()
    call = channel.stream_stream(path, bytes, bytes)(iter(to_send.get, None), timeout=150)
    sent = [b"%d" % number * number for number in range(100)]
    for message in sent:
        to_send.put(message)
        assert next(iter(call)) == message
    to_send.put(None)
    assert list(call) == []
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.grpc_status) == ("ok", "0")
    assert bodies.whole(exchange, "request") == bodies.whole(exchange, "response") == framed(sent)


@pytest.mark.parametrize("size", [100_000, 20_000_000])
def test_a_large_message(recipe: Recipe, channel: grpc.Channel, size: int) -> None:
    """More than Envoy buffers: the digests are those of what the client sent and got."""
    path, message = new("Infer"), bytes(range(250)) * (size // 250)
    answer = channel.unary_unary(path, bytes, bytes)(message, timeout=150)
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.integrity) == ("ok", [])
    for passed, body in ((exchange.request, message), (exchange.response, answer)):
        assert passed is not None
        assert (passed.bytes, passed.sha256) == (size + 5, hashlib.sha256(framed([body])).hexdigest())


def test_a_client_that_cancels(recipe: Recipe, server: Server, channel: grpc.Channel) -> None:
    """The server hears of it, and the record says who it was."""
    path = new("Endless")
    call = channel.unary_stream(path, bytes, bytes)(b"", timeout=150)
    assert next(iter(call)) == b"first"
    server.model.cancelled.clear()
    call.cancel()  # type: ignore[no-untyped-call]
    assert server.model.cancelled.wait(150)
    exchange = settled(recipe, path)
    assert (exchange.outcome, exchange.grpc_status) == ("client_cancel_mid_stream", None)
    assert bodies.whole(exchange, "response") == framed([b"first"])
    assert "DR" in present(exchange.response_flags)


def test_other_requests_go_to_the_http_servers(recipe: Recipe) -> None:
    """Also one under the path of a gRPC method: the content-type decides."""
    answer = recipe.client().chat()
    exchange = recipe.settled(answer)
    assert (answer.status, exchange.cluster, exchange.grpc_status) == (200, "llm", None)
    other = recipe.client().ask(path=new("Infer"), body={})
    assert recipe.settled(other).cluster == "llm"


MORTAL = """
import concurrent.futures, grpc, time

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_stream_rpc_method_handler(self.tokens) if "Tokens" in details.method else None

    def tokens(self, message, context):
        yield b"first"
        time.sleep(50)

server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Handler()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""
"""A server in a process of its own, without the health service: Envoy asks it all the same when there is no other."""


def test_a_server_that_dies(tmp_path: Path) -> None:
    """In mid-stream: the client's call is reset. Then it is not there: UNAVAILABLE, from Envoy. No call is `ok`."""
    process = subprocess.Popen([sys.executable, "-c", MORTAL], stdout=subprocess.PIPE, text=True)
    with process, gateway(tmp_path, int(process.stdout.readline())) as recipe:  # type: ignore[union-attr]
        with grpc.insecure_channel(f"127.0.0.1:{recipe.port}") as channel:
            paths = [new("Tokens"), new("Tokens")]
            call = channel.unary_stream(paths[0], bytes, bytes)(b"", timeout=150)
            assert next(iter(call)) == b"first"
            process.kill()
            process.wait()
            with pytest.raises(grpc.RpcError) as failed:
                next(iter(call))
            assert failed.value.code() is grpc.StatusCode.INTERNAL
            with pytest.raises(grpc.RpcError) as failed:
                list(channel.unary_stream(paths[1], bytes, bytes)(b"", timeout=150))
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        broken, refused = (settled(recipe, path) for path in paths)
        assert (broken.outcome, broken.grpc_status) == ("upstream_reset_mid_stream", None)
        assert bodies.whole(broken, "response") == framed([b"first"])
        assert (refused.outcome, refused.grpc_status) == ("upstream_connect_fail", "14")
        assert (refused.attempts, refused.response_flags) == (1, ["UF"])
