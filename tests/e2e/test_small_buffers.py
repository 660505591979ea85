"""An Envoy as Envoy Gateway configures it: the recorder is on by the route, and buffers are smaller than what it holds.

Its configuration is none of ours, so `extproc check` never sees it. What is learnt is learnt from the traffic.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM
from support.envoys import admin_of
from support.exchanges import present
from support.raw import Closed, Connection, Head, Message, RawBackend, Script
from support.stack import end, eventually

from extproc.history import reader

BOOTSTRAP = """
static_resources:
  listeners:
  - name: gateway
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    per_connection_buffer_limit_bytes: 32768
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          access_log:
          - name: envoy.access_loggers.http_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config:
                log_name: extproc
                transport_api_version: V3
                grpc_service: {{envoy_grpc: {{cluster_name: extproc}}}}
          route_config:
            name: gateway
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: llm, timeout: 0s}}
                typed_per_filter_config:
                  gateway/extproc:
                    "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig
                    config: {{}}
          http_filters:
          {late_headers}
          - name: gateway/extproc
            disabled: true
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: extproc}}, timeout: 10s}}
              message_timeout: 10s
              processing_mode: {{request_body_mode: STREAMED, response_body_mode: STREAMED}}
              allow_mode_override: true
              metadata_options: {{receiving_namespaces: {{untyped: [extproc]}}}}
              request_attributes: [source.address]
              response_attributes: [upstream.address, response.code_details]
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: llm
    connect_timeout: 5s
    per_connection_buffer_limit_bytes: 32768
    load_assignment:
      cluster_name: llm
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
  - name: extproc
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: extproc
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{pipe: {{path: {socket}}}}}}}
"""

LATE_HEADERS = """- name: late-headers
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
              mutations:
                response_mutations:
                - append: {header: {key: x-audit-id, value: "%DYNAMIC_METADATA(extproc:id)%"}}
                - append: {header: {key: x-upstream, value: "%UPSTREAM_REMOTE_ADDRESS%"}}"""
"""What a ClientTrafficPolicy has added."""

BODY = b'{"model":"demo","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 100_000)


def echo(connection: Connection, head: Head) -> None:
    """Answer with the digest of what has come."""
    digest = hashlib.sha256(connection.finish(head).body).hexdigest().encode()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(digest), digest))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def try_once(port: int) -> bool:
    """Whether a request of 100 kB reaches the backend. One that is answered otherwise, or not at all, does not."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    try:
        with Connection.to(port) as client:
            client.send(head + BODY)
            client.socket.settimeout(3.0)
            answer = client.read_message()
    except (OSError, Closed):
        return False
    return answer.head.status == 200 and answer.body.decode() == hashlib.sha256(BODY).hexdigest()


@contextlib.contextmanager
def gateway(
    directory: Path, *, answer: Script = echo, set_audit_id: bool = False, late_headers: str = LATE_HEADERS
) -> Iterator[int]:
    """The port of such an Envoy, with a sidecar beside it that has ended, and written all, afterwards."""
    path = directory / "extproc.sock"
    with RawBackend() as backend, (directory / "stderr").open("wb") as stderr:
        backend.otherwise = answer
        arguments = ("--listen", f"unix:{path}", "--admin-port", "0", "--data-dir", str(directory / "data"))
        sidecar = subprocess.Popen(
            [*PROGRAM, "serve", *arguments],
            cwd=directory,
            env=os.environ | {"EXTPROC_SET_AUDIT_ID": str(set_audit_id).lower()},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            assert sidecar.stdout is not None
            assert sidecar.stdout.readline().startswith("ready ")
            port = free_port()
            bootstrap = BOOTSTRAP.format(port=port, backend=backend.port, socket=path, late_headers=late_headers)
            with admin_of(bootstrap, directory / "envoy"):
                yield port
        finally:
            code = end(sidecar, signal.SIGTERM)
            sidecar.communicate()
        assert code == 0


@pytest.mark.timeout(180)
def test_a_size_that_does_not_fit_is_held_no_longer(tmp_path: Path) -> None:
    """The first ones fail; then they are streamed, recorded whole, and the log says what to change."""
    with gateway(tmp_path) as port:
        eventually(lambda: try_once(port), "a request that passes")
        assert try_once(port)
    said = [json.loads(line) for line in (tmp_path / "stderr").read_text().splitlines()]
    warnings = [each["event"] for each in said if each["level"] == "warning"]
    assert any("was held back" in each and "bufferLimit" in each for each in warnings), said
    last = list(reader.exchanges([tmp_path / "data"]))[-1]
    assert (last.held, present(last.request).sha256) == (False, hashlib.sha256(BODY).hexdigest())


def ask(port: int) -> Message | None:
    """The answer to a short request; None where there is none yet."""
    with contextlib.suppress(OSError, Closed), Connection.to(port) as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        return client.read_message()
    return None


def test_a_request_is_recorded_and_named(tmp_path: Path) -> None:
    """Held, joined with Envoy's entry of it; the client hears its id, and where it went."""

    with gateway(tmp_path) as port:
        answer = eventually(lambda: ask(port), "an answer")

        def joined() -> bool:
            found = reader.exchanges([tmp_path / "data"])
            return any(each.envoy for each in found)

        eventually(joined, "Envoy's entry")
    [exchange] = reader.exchanges([tmp_path / "data"])
    assert (exchange.outcome, exchange.held, exchange.route) == ("ok", True, None)
    assert answer.head.get("x-audit-id") == exchange.id
    assert answer.head.get("x-upstream") == exchange.upstream


def forge(connection: Connection, head: Head) -> None:
    """Answer with an id that is none of ours."""
    connection.finish(head)
    connection.send(b"HTTP/1.1 200 OK\r\nx-audit-id: forged\r\nx-audit-id: twice\r\ncontent-length: 2\r\n\r\nok")


def vanish(connection: Connection, head: Head) -> None:
    """No answer: Envoy gives one itself."""
    connection.finish(head)
    connection.close()


@pytest.mark.parametrize(("answer", "status"), [(forge, 200), (vanish, 503)])
def test_the_recorder_itself_names_the_exchange(tmp_path: Path, answer: Script, status: int) -> None:
    """Where no filter does: once, and true, whatever the backend sends, and on Envoy's own answer, too."""
    with gateway(tmp_path, answer=answer, set_audit_id=True, late_headers="") as port:
        got = eventually(lambda: ask(port), "an answer")
    [exchange] = reader.exchanges([tmp_path / "data"])
    assert got.head.status == exchange.status == status
    assert [value for name, value in got.head.headers if name == "x-audit-id"] == [exchange.id]
