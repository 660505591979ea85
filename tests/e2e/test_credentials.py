"""A credential that passes through the real Envoy is in no file of the data directory, wherever it stands."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack, eventually

HEADERS = (
    *("authorization: Bearer {0}", "x-acme-api-key: {0}", "ocp-apim-subscription-key: {0}", "helicone-auth: {0}"),
    *(
        "cookie: a={0}",
        "x-note: sk-{0}",
        "x-other: Bearer {0}",
        "idempotency-key: sk-{0}",
        "x-options: a=1; secret={0}",
    ),
    *("referer: https://{0}@h/?a=1#token={0}", "x-original-uri: /v1?sig={0}", "x-forwarded-uri: /v1;token={0}"),
    *("link: <https://h/?key={0}>; rel=next", "sec-websocket-protocol: realtime, openai-insecure-api-key.{0}"),
)
PATH = (
    "/v1/sk-{0}/chat/completions;token={0}?api_key={0}&%6Bey[]={0};X-Amz-Signature={0}&u=https%3A%2F%2Fh%2F%3Fkey%3D{0}"
)


@pytest.mark.parametrize("place", ["request", "answer"])
def test_a_credential_is_in_no_file(tmp_path: Path, place: str) -> None:
    """Neither in the records of the request and the answer, nor in Envoy's access entry, nor in its log."""
    canary = f"canary{secrets.token_hex(8)}"
    lines = "".join(f"{line.format(canary)}\r\n" for line in HEADERS).encode()
    location = f"location: https://h/?key={canary}&a=".encode() + b"\xff\r\nset-cookie: a=" + canary.encode() + b"\r\n"

    def answer(connection: Connection, head: Head) -> None:
        connection.finish(head)
        more = lines + location if place == "answer" else b""
        connection.send(b"HTTP/1.1 200 OK\r\n%btransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" % more)
        connection.send((lines if place == "answer" else b"") + b"\r\n")

    with RawBackend() as backend, RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack:
        asked = PATH.format(canary) if place == "request" else "/v1/chat/completions?a=1"
        path = backend.on(answer, f"{asked}&number=")
        with Connection.to(stack.port) as client:
            client.send(
                b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n%b\r\n2\r\n{}\r\n0\r\n%b\r\n"
                % (path.encode(), *((lines, lines) if place == "request" else (b"", b"")))
            )
            client.read_message()
        exchange = eventually(lambda: next((each for each in stack.exchanges() if each.envoy), None), "its entry")
        assert exchange.status == 200
        assert stack.stop() == 0
    files = [file for file in stack.data_dir.rglob("*") if file.is_file()]
    assert any(b"redacted:" in file.read_bytes() for file in files)
    assert [file for file in files if canary.encode() in file.read_bytes()] == []
