"""envoy/examples/mtls-sidecar: Envoy and the recorder on two machines, with certificates on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.certificates import Authority
from support.commands import PROGRAM, run
from support.raw import Connection, Head, RawBackend
from support.recipes import CHAT, EXAMPLES, Answer, Client, Recipe, copied
from support.stack import eventually

from extproc.envoy.process.proxy import Envoy, State
from extproc.history import bodies, lookup, reader, verify
from extproc.history.join import Exchange

RECIPE = EXAMPLES / "mtls-sidecar"


class Machine:
    """The recorder's machine: a directory with extproc.yaml and certificates, and `extproc serve` over TCP in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.certs = directory / "certs"
        self.certs.mkdir(parents=True)
        self.authority = Authority(self.certs, "ca")
        for name in ("sidecar", "envoy"):
            self.authority.sign(name, days=30)

    def __enter__(self) -> Self:
        arguments = ("--config", str(RECIPE / "extproc.yaml"), "--listen", "127.0.0.1:0", "--admin-port", "0")
        with (self.directory / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", *arguments], cwd=self.directory, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        word, _, self.address = self.process.stdout.readline().strip().partition(" ")
        assert word == "ready", (self.directory / "stderr").read_text()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(150)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ids(self) -> list[str]:
        """The exchanges that it has recorded."""
        return [exchange.id for exchange in reader.exchanges([self.data_dir])]

    def settled(self, id: str) -> Exchange:
        """One exchange, once it has ended and Envoy's entry is there."""

        def ask() -> Exchange | None:
            (found,) = lookup.find([self.data_dir], id)
            return found if found.access_log == "received" else None

        return eventually(ask, f"Envoy's word on exchange {id}")


class Gateway:
    """Envoy's machine: `extproc publish` from the recipe, and the Envoy that somebody starts on what it wrote."""

    def __init__(self, recorder: Machine, backend: RawBackend, directory: Path, name: str = "localhost") -> None:
        envoy_dir = copied("mtls-sidecar", directory / "envoy", {}, lambda _, text: text.replace("localhost", name))
        (envoy_dir / "extproc.yaml").unlink()  # it is the recorder's
        # Envoy looks for the files from the directory in which it was started, which here is the tests'.
        overlay = envoy_dir / "overlay.yaml"
        overlay.write_text(overlay.read_text().replace("certs/", f"{recorder.certs}/"))
        where = ("--envoy-dir", envoy_dir, "--to", directory / "live")
        ports = {"EXTPROC_PORT": "0", "EXTPROC_ENVOY_ADMIN_PORT": "0"}
        to = ("--listen", recorder.address, "--backend", backend.url)
        done = run("publish", *where, *to, cwd=directory, env=ports)
        assert done.returncode == 0, done.stderr
        self._envoy = Envoy(directory / "live", directory / "envoy.log", concurrency=1)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._envoy.start())
        self.port = eventually(self._live, "Envoy's listener").port
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._envoy.stop())
        self._runner.close()

    def ask(self, body: bytes | dict[str, Any], path: str = "/v1/chat/completions") -> Answer:
        """One request, on a connection of its own."""
        with contextlib.closing(Client(self.port)) as client:
            return client.ask(path=path, body=body)

    def _live(self) -> State | None:
        state = self.state()
        return state if state is not None and state.live and state.port and any(state.hosts["llm"].values()) else None

    def state(self) -> State | None:
        """What Envoy serves."""
        return self._runner.run(self._envoy.state())

    def stat(self, name: str) -> int:
        """One of Envoy's counters."""
        text = self._runner.run(self._envoy.ask(f"/stats?filter=^{re.escape(name)}$")).decode()
        match = re.search(r": ([0-9]+)", text)
        return int(match[1]) if match else 0


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The sidecar with the recipe's extproc.yaml."""
    with Machine(tmp_path_factory.mktemp("recorder")) as machine:
        yield machine
        assert machine.stop() == 0
        assert [str(finding) for finding in verify.verify(machine.data_dir)] == []


@pytest.fixture(scope="module")
def backend() -> Iterator[RawBackend]:
    """The LLM server, which says each body back."""

    def echo(connection: Connection, head: Head) -> None:
        body = connection.finish(head).body
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    with RawBackend() as backend:
        backend.otherwise = echo
        yield backend
        assert backend.errors == []


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, recorder: Machine, backend: RawBackend) -> Iterator[Gateway]:
    """The real Envoy with the recipe's overlay.yaml, its sidecar healthy."""
    with Gateway(recorder, backend, tmp_path_factory.mktemp("gateway")) as gateway:
        eventually(lambda: set(gateway.state().hosts["extproc"].values()) == {True}, "the sidecar's health")  # type: ignore[union-attr]
        yield gateway


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_an_exchange_crosses_the_wire(gateway: Gateway, recorder: Machine, backend: RawBackend, size: int) -> None:
    """Held and streamed; the record on the other machine is whole, and Envoy's entry has come there, too."""
    body = os.urandom(size)
    answer = gateway.ask(body)
    assert (answer.status, answer.body) == (200, body)
    exchange = recorder.settled(answer.headers["x-audit-id"])
    assert bodies.whole(exchange, "request") == bodies.whole(exchange, "response") == body
    assert (exchange.outcome, exchange.cluster, exchange.route) == ("ok", "llm", "default")
    assert (exchange.upstream, exchange.attempts) == (f"127.0.0.1:{backend.port}", 1)
    assert exchange.integrity == []
    # A client that has its last byte may close before Envoy has its own end of the answer.
    assert exchange.response_flags in ([], ["DC"])


def test_all_of_it_goes_over_tls(gateway: Gateway, recorder: Machine) -> None:
    """Each connection of the cluster that carries exchanges and the access log, and that of its health checks."""
    recorder.settled(gateway.ask(CHAT).headers["x-audit-id"])
    connections = gateway.stat("cluster.extproc.upstream_cx_total")
    assert gateway.stat("cluster.extproc.ssl.handshake") == connections + 1 > 1
    assert gateway.stat("cluster.extproc.ssl.connection_error") == 0
    assert gateway.stat("access_logs.grpc_access_log.logs_written") > 0
    assert gateway.stat("access_logs.grpc_access_log.logs_dropped") == 0


def health(recorder: Machine, credentials: grpc.ChannelCredentials | None) -> int:
    """What the sidecar says to a client with these credentials; without, in the clear."""
    with contextlib.ExitStack() as stack:
        channel = (
            grpc.insecure_channel(recorder.address)
            if credentials is None
            else grpc.secure_channel(recorder.address, credentials)
        )
        stack.enter_context(channel)
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=150)
        return int(answer.status)


def test_a_client_with_a_certificate_is_served(recorder: Machine) -> None:
    """As Envoy is: the authority's own certificate is all that counts."""
    certificate, key = (recorder.certs / name for name in ("envoy.pem", "envoy.key"))
    root = recorder.authority.certificate.read_bytes()
    credentials = grpc.ssl_channel_credentials(root, key.read_bytes(), certificate.read_bytes())
    assert health(recorder, credentials) == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("who", ["in the clear", "nobody", "a stranger"])
def test_others_are_refused(recorder: Machine, tmp_path: Path, who: str) -> None:
    """Without TLS, without a certificate, or with one of another authority; the sidecar goes on."""
    root = recorder.authority.certificate.read_bytes()
    credentials = None
    if who == "nobody":
        credentials = grpc.ssl_channel_credentials(root)
    elif who == "a stranger":
        certificate, key = Authority(tmp_path, "other").sign("envoy")
        credentials = grpc.ssl_channel_credentials(root, key.read_bytes(), certificate.read_bytes())
    with pytest.raises(grpc.RpcError) as refused:
        health(recorder, credentials)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert recorder.process.poll() is None


def test_envoy_talks_to_no_other_recorder(recorder: Machine, backend: RawBackend, tmp_path: Path) -> None:
    """A certificate for another name than the one asked for: no prompt is shown, and none passes unrecorded."""
    asked = []

    def script(connection: Connection, head: Head) -> None:
        asked.append(head)
        connection.finish(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    path = backend.on(script)
    known = recorder.ids()
    with Gateway(recorder, backend, tmp_path, name="recorder.example.com") as gateway:
        answer = gateway.ask(CHAT, path)
        assert gateway.stat("cluster.extproc.ssl.fail_verify_san") > 0
    assert (answer.status, asked) == (503, [])
    assert recorder.ids() == known


def test_both_on_one_machine(tmp_path: Path) -> None:
    """`extproc up` with both files of the recipe, to try it."""
    certs = tmp_path / "certs"
    certs.mkdir()
    authority = Authority(certs, "ca")
    for name in ("sidecar", "envoy"):
        authority.sign(name, days=30)
    with Recipe("mtls-sidecar", tmp_path, listen="127.0.0.1:0") as recipe:
        assert recipe.settled(recipe.client().chat()).outcome == "ok"
        assert recipe.stop() == 0
        assert recipe.findings() == []
