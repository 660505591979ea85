"""What breaks gets a clear answer: in OpenAI's shape for the client, and with Envoy's reasons in the record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.certificates import Authority
from support.exchanges import present
from support.raw import Connection, Head, Message, RawBackend
from support.recipes import Answer, Client
from support.stack import RunningStack, eventually

from extproc.envoy.config import files
from extproc.history.join import Exchange

Cluster = dict[str, Any]

REFUSED = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"


def endpoint(host: str, port: int) -> dict[str, Any]:
    """An endpoint of a load assignment."""
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}


def cluster(name: str, *endpoints: dict[str, Any], **settings: Any) -> Cluster:
    """A cluster as clusters.yaml has it."""
    shipped = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": list(endpoints)}]},
    }
    return shipped | settings


def tls(authority: Path, name: str = "localhost") -> dict[str, Any]:
    """The transport socket of a cluster whose servers an authority has signed."""
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": name,
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(authority)},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}],
            }
        },
    }
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def envoy_dir(directory: Path, clusters: Mapping[str, Cluster]) -> Path:
    """The shipped files with a route for each cluster, `/NAME/...`, and none for anything else."""
    documents = files.read(None)
    documents[files.CLUSTERS]["resources"] = list(clusters.values())
    route = {"timeout": "0s", "idle_timeout": "600s"}
    routes = [{"name": name, "match": {"prefix": f"/{name}/"}, "route": {"cluster": name} | route} for name in clusters]
    documents[files.ROUTES]["resources"][0]["virtual_hosts"][0]["routes"] = routes
    directory.mkdir()
    for name in (files.CLUSTERS, files.ROUTES):
        (directory / name).write_text(yaml.safe_dump(documents[name], sort_keys=False))
    return directory


class Broken:
    """A stack with a cluster for each way to be unavailable."""

    def __init__(self, directory: Path) -> None:
        self.sick = RawBackend()
        self.secure_servers: list[RawBackend] = []
        self.asked: list[str] = []
        self.sick.otherwise = self._sick
        gone = RawBackend()
        gone.stop()
        known, unknown = Authority(directory, "known"), Authority(directory, "unknown")
        health = {
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "health_checks": [
                {
                    "timeout": "2s",
                    "interval": "0.1s",
                    "no_traffic_interval": "0.1s",
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "http_health_check": {"path": "/alive"},
                }
            ],
        }
        expired = self._secure(known.sign("expired", days=-1))
        stranger = self._secure(unknown.sign("stranger"))
        misnamed = self._secure(known.sign("misnamed"))
        self.clusters = {
            "sick": cluster("sick", endpoint("127.0.0.1", self.sick.port), **health),
            "refused": cluster("refused", endpoint("127.0.0.1", gone.port)),
            "empty": cluster("empty"),
            "nowhere": cluster("nowhere", endpoint("nowhere.invalid", 80)),
            "expired": cluster("expired", endpoint("127.0.0.1", expired), **tls(known.certificate)),
            "stranger": cluster("stranger", endpoint("127.0.0.1", stranger), **tls(known.certificate)),
            "misnamed": cluster("misnamed", endpoint("127.0.0.1", misnamed), **tls(known.certificate, "other.example")),
            "silent": cluster(
                "silent", endpoint("127.0.0.1", self.sick.port), connect_timeout="0.3s", **tls(known.certificate)
            ),
        }
        self.ports = {"sick": self.sick.port, "refused": gone.port, "expired": expired, "stranger": stranger}
        self.ports |= {"misnamed": misnamed, "silent": self.sick.port}
        configuration = envoy_dir(directory / "envoy", self.clusters)
        self.stack = RunningStack(directory / "up", "--envoy-dir", configuration, "--envoy-concurrency", "1")

    def close(self) -> None:
        for backend in (self.sick, *self.secure_servers):
            backend.stop()
            assert backend.errors == []

    def ask(self, path: str) -> tuple[Answer, Exchange]:
        """The answer to a request, and its exchange with Envoy's word."""
        with Client(self.stack.port) as client:
            answer = client.ask(path=path, body={"model": "m", "messages": []})
        exchange = self.stack.told(answer.headers["x-audit-id"])
        assert exchange.integrity == []
        return answer, exchange

    def _secure(self, signed: tuple[Path, Path]) -> int:
        certificate, key = signed
        both = certificate.with_suffix(".both")
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        backend = RawBackend(both)
        self.secure_servers.append(backend)
        return backend.port

    def _sick(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        self.asked.append(head.path)
        connection.send(b"HTTP/1.1 500 Dead\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    """The stack of this module."""
    broken = Broken(tmp_path_factory.mktemp("unavailable"))
    with broken.stack as stack:
        yield broken
        assert stack.stop() == 0
        assert stack.findings() == []
    broken.close()


def error(answer: Answer, status: int) -> Any:
    """The error that a client of OpenAI's API reads."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    document = answer.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["message"].endswith(".")
    return document["error"]


# No server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_cluster_without_a_server(broken: Broken, name: str) -> None:
    """There are no endpoints, or their name is in no DNS."""
    answer, exchange = broken.ask(f"/{name}/v1/chat/completions")
    assert error(answer, 503)["code"] == "no_healthy_upstream"
    assert answer.headers["retry-after"] == "1"
    assert (exchange.outcome, exchange.status) == ("local_reply", 503)
    assert (exchange.response_flags, exchange.response_code_details) == (["UH"], "no_healthy_upstream")
    assert (exchange.cluster, exchange.route, exchange.upstream) == (name, name, None)


def test_every_server_is_down(broken: Broken) -> None:
    """The health checks have said so, and nobody is asked in vain."""
    eventually(lambda: broken.stack.envoy_stat("cluster.sick.health_check.failure") > 0, "a health check")
    answer, exchange = broken.ask("/sick/v1/chat/completions")
    assert error(answer, 503)["code"] == "no_healthy_upstream"
    assert (exchange.outcome, exchange.response_flags) == ("local_reply", ["UH"])
    assert exchange.response_code_details == "no_healthy_upstream"
    assert (exchange.cluster, exchange.upstream, exchange.attempts) == ("sick", None, 1)
    assert "/sick/v1/chat/completions" not in broken.asked


def test_the_shipped_cluster_asks_also_those_that_seem_dead(tmp_path: Path) -> None:
    """When every health check fails it may be the checks (Envoy's panic threshold); a dead server is said to be one."""
    documents = files.read(None)
    [llm] = documents[files.CLUSTERS]["resources"]
    for name in [each for each in llm["health_checks"][0] if each.endswith("interval")]:
        llm["health_checks"][0][name] = "0.1s"
    directory = tmp_path / "envoy"
    directory.mkdir()
    (directory / files.CLUSTERS).write_text(yaml.safe_dump(documents[files.CLUSTERS]))
    servers = [RawBackend(), RawBackend()]
    backends = [argument for server in servers for argument in ("--backend", server.url)]
    with RunningStack(tmp_path / "up", *backends, "--envoy-dir", directory) as stack:
        for server in servers:
            server.stop()
        eventually(lambda: stack.envoy_stat("cluster.llm.membership_healthy") == 0, "two servers found dead")
        with Client(stack.port) as client:
            answer = client.ask(body={"model": "m"})
        assert error(answer, 503)["code"] == "upstream_connect_failure"
        exchange = stack.told(answer.headers["x-audit-id"])
        assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
        assert (exchange.cluster, exchange.upstream in [f"127.0.0.1:{each.port}" for each in servers]) == (
            "llm",
            True,
        )


def test_a_connection_that_is_refused(broken: Broken) -> None:
    """Nobody listens, and no health check has said so."""
    answer, exchange = broken.ask("/refused/v1/chat/completions")
    assert error(answer, 503)["code"] == "upstream_connect_failure"
    assert answer.headers["retry-after"] == "1"
    assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
    assert exchange.response_code_details == REFUSED
    assert (exchange.cluster, exchange.attempts) == ("refused", 1)
    assert exchange.upstream == f"127.0.0.1:{broken.ports['refused']}"
    assert "Connection" in present(present(exchange.envoy).upstream_failure)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired", "certificate has expired"),
        ("stranger", "unable to get"),
        ("misnamed", "SAN matcher"),
    ],
)
def test_tls_that_fails(broken: Broken, name: str, reason: str) -> None:
    """The client learns that there was no connection, the operator what is wrong with the certificate."""
    answer, exchange = broken.ask(f"/{name}/v1/chat/completions")
    assert error(answer, 503)["code"] == "upstream_connect_failure"
    assert reason not in answer.body.decode()
    assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
    assert "TLS_error" in present(exchange.response_code_details)
    assert reason in present(present(exchange.envoy).upstream_failure)
    assert (exchange.cluster, exchange.upstream) == (name, f"127.0.0.1:{broken.ports[name]}")


def test_a_server_that_says_nothing(broken: Broken) -> None:
    """It takes the connection and waits for other words than TLS: connect_timeout ends that."""
    answer, exchange = broken.ask("/silent/v1/chat/completions")
    assert error(answer, 503)["code"] == "upstream_connect_failure"
    assert (exchange.outcome, exchange.response_flags) == ("upstream_connect_fail", ["UF"])
    assert exchange.response_code_details == "upstream_reset_before_response_started{connection_timeout}"
    assert (exchange.cluster, exchange.upstream) == ("silent", f"127.0.0.1:{broken.ports['silent']}")


def test_nothing_reaches_a_server_that_is_not_trusted(broken: Broken) -> None:
    """Its certificate is refused before the first byte of a request."""
    broken.ask("/stranger/v1/chat/completions")
    assert [backend.errors for backend in broken.secure_servers] == [[], [], []]


# No route, too much --------------------------------------------------------------------------------------------


def test_no_route(broken: Broken) -> None:
    """404, listed as what it is: what has no route never meets the recorder, and Envoy's access entry tells of it."""
    with Client(broken.stack.port) as client:
        answer = client.ask(path="/elsewhere", body={"model": "m", "messages": []})
    assert "x-audit-id" not in answer.headers
    exchange = broken.stack.exchange_of("/elsewhere")
    assert (error(answer, 404)["type"], error(answer, 404)["code"]) == ("invalid_request_error", "no_route")
    assert (exchange.outcome, exchange.response_flags) == ("local_reply", ["NR"])
    assert (exchange.cluster, exchange.route, exchange.upstream) == (None, None, None)


def test_too_large_a_request(broken: Broken) -> None:
    """413, whichever way the length is told, before the server is asked."""
    with Connection.to(broken.stack.port) as client:
        client.send(b"POST /refused/large HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n")
        message = client.read_message()
    answer = _answer(message)
    assert (error(answer, 413)["type"], error(answer, 413)["code"]) == ("invalid_request_error", "request_too_large")
    exchange = broken.stack.told(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.status) == ("local_reply", 413)


# gRPC ----------------------------------------------------------------------------------------------------------


def test_a_grpc_client_gets_no_json(broken: Broken, tmp_path: Path) -> None:
    """Its status is UNAVAILABLE, and its message is Envoy's plain words, not a document."""
    headers = tmp_path / "headers"
    command = [
        "curl",
        "-s",
        "--http2-prior-knowledge",
        "-D",
        str(headers),
        "-o",
        str(tmp_path / "body"),
        "--data-binary",
        "@-",
    ]
    named = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    url = f"{broken.stack.url}/empty/inference.Service/Infer"
    subprocess.run([*command, *named, url], input=b"\0\0\0\0\0", check=True, timeout=150)
    fields = dict(line.split(": ", 1) for line in headers.read_text().splitlines() if ": " in line)
    assert headers.read_text().startswith("HTTP/2 200")
    assert fields["content-type"] == "application/grpc"
    assert (fields["grpc-status"], fields["grpc-message"]) == ("14", "no healthy upstream")
    assert not (tmp_path / "body").exists() or not (tmp_path / "body").read_bytes()
    exchange = broken.stack.told(fields["x-audit-id"])
    assert (exchange.outcome, exchange.response_flags, exchange.grpc_status) == ("local_reply", ["UH"], "14")


def _answer(message: Message) -> Answer:
    return Answer(message.head.status, dict(message.head.headers), message.body)


# The recorder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGSTOP, 504), (signal.SIGKILL, 503)], ids=["it hangs", "it is killed"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
def test_the_recorder_is_away(tmp_path: Path, number: signal.Signals, status: int, path: str) -> None:
    """Also what Envoy answers for it is an error that a client of OpenAI's API reads, with a time to try again."""
    with RawBackend() as backend:
        (tmp_path / "envoy").mkdir()
        (tmp_path / "envoy" / files.OVERLAY).write_text(SOON if number is signal.SIGSTOP else "{}\n")
        arguments = ("--backend", backend.url, "--envoy-dir", tmp_path / "envoy", "--envoy-concurrency", "1")
        with RunningStack(tmp_path / "stack", *arguments, gate_timeout_seconds=0.2) as stack:
            (worker,) = stack.workers().values()
            supervisor = stack.process.pid
            os.kill(supervisor, signal.SIGSTOP)  # nobody starts another one
            try:
                os.kill(worker, number)
                with Connection.to(stack.port) as client:
                    body = b'{"model": "m"}' if "chat" in path else b""
                    method = b"POST" if body else b"GET"
                    client.send(b"%b %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (
                        method, path.encode(), len(body), body))  # fmt: skip
                    answer = client.read_message()
            finally:
                os.kill(supervisor, signal.SIGCONT)
                if number is signal.SIGSTOP:
                    os.kill(worker, signal.SIGCONT)
        assert answer.head.status == status
        assert answer.head.get("retry-after") == "1"
        assert answer.head.get("content-type") == "application/json"
        error = json.loads(answer.body)["error"]
        assert (error["type"], error["code"]) == ("service_unavailable_error", "recorder_unavailable")


SOON = """\
static_resources:
  listeners:
  - name: ingress
    filter_chains:
    - name: ingress
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          http_filters:
          - {name: envoy.filters.http.ext_proc, typed_config: {message_timeout: 0.5s}}
"""
