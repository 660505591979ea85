"""What client and backend see on the wire is the same with the recorder and without it.

Each case is sent twice, at the socket: through the shipped stack, and through an Envoy of the same files without the
recorder and the two filters around it. What may differ is what the recorder's own configuration adds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded, StreamReset
from support.exchanges import present
from support.raw import Closed, Connection, Head, Message, RawBackend
from support.stack import RunningStack, eventually

from extproc.envoy.config import files

OURS = {"x-real-ip", "x-audit-id", "x-upstream"}
OF_THE_MOMENT = {"x-request-id", "date"}

BIG = bytes(range(256)) * 3000
"""More than a held request may have, less than what Envoy buffers."""


@pytest.fixture(scope="session")
def plain_stack(tmp_path_factory: pytest.TempPathFactory, shared_raw_backend: RawBackend) -> Iterator[RunningStack]:
    """The same Envoy without the recorder in its filter chain."""
    directory = tmp_path_factory.mktemp("plain")
    documents = files.read(None)
    manager = documents[files.BOOTSTRAP]["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    config: dict[str, Any] = manager["typed_config"]
    config["http_filters"] = [
        each
        for each in config["http_filters"]
        if each["name"] in ("envoy.filters.http.body_size_limit", "envoy.filters.http.router")
    ]
    (directory / "files").mkdir()
    (directory / "files" / files.BOOTSTRAP).write_text(yaml.safe_dump(documents[files.BOOTSTRAP]))
    arguments = ("--backend", shared_raw_backend.url, "--envoy-dir", directory / "files", "--envoy-concurrency", "1")
    with RunningStack(directory, *arguments) as stack:
        yield stack
        assert not {"open", "request", "response"} & {record["type"] for record in stack.records()}


@dataclasses.dataclass
class Case:
    """A request and its answer as bytes; PATH stands for the request's path."""

    request: bytes
    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    closes: bool = False
    """The backend closes after its answer."""


def post(headers: bytes, body: bytes, method: bytes = b"POST") -> bytes:
    """A request."""
    return method + b" PATH HTTP/1.1\r\nhost: gateway:8000\r\n" + headers + b"\r\n" + body


def length(body: bytes) -> bytes:
    """A content-length and its body."""
    return b"content-length: %d\r\n\r\n" % len(body) + body


ANSWER = b"HTTP/1.1 200 OK\r\n"
CASES = {
    "GET": Case(post(b"", b"", b"GET")),
    "GET with a query and odd bytes in the path": Case(
        post(b"", b"", b"GET").replace(b"PATH", b"PATH?a=%2F..%2f&b=a%20b//c;d&%C3%A9")
    ),
    "DELETE": Case(post(b"", b"", b"DELETE")),
    "POST": Case(post(b"content-length: 12\r\ncontent-type: application/json\r\n", b'{"model":"m}')),
    "POST of nothing": Case(post(b"content-length: 0\r\n", b"")),
    "POST without a body": Case(post(b"", b"")),
    "POST too large to be held": Case(post(b"content-length: %d\r\n" % len(BIG), BIG)),
    "chunked": Case(post(b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")),
    "chunked and empty": Case(post(b"transfer-encoding: chunked\r\n", b"0\r\n\r\n")),
    "chunked with trailers": Case(
        post(b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\nx-checksum: abc\r\nx-more: d\r\n\r\n")
    ),
    "chunked and large": Case(
        post(b"transfer-encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(BIG), BIG)),
        ANSWER + length(BIG),
    ),
    "headers twice, empty, and with bytes beyond ASCII": Case(
        post(b"x-a: 1\r\nx-a: 2\r\nx-empty:\r\nx-utf: \xc3\xa9\r\nx-latin: \xe9\r\ncookie: a=b\r\n", b"", b"GET"),
        ANSWER + b"set-cookie: a=1\r\nset-cookie: b=2\r\nx-utf: \xc3\xa9\r\nx-latin: \xe9\r\ncontent-length: 0\r\n\r\n",
    ),
    "a header of 40 KB": Case(post(b"x-long: " + b"a" * 40_000 + b"\r\n", b"", b"GET")),
    "HEAD": Case(post(b"", b"", b"HEAD"), ANSWER + b"content-length: 1234\r\ncontent-type: text/plain\r\n\r\n"),
    "HEAD of a chunked resource": Case(post(b"", b"", b"HEAD"), ANSWER + b"transfer-encoding: chunked\r\n\r\n"),
    "204": Case(post(b"", b"", b"GET"), b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"),
    "304 with a length": Case(post(b"", b"", b"GET"), b"HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\n\r\n"),
    "an empty answer": Case(post(b"", b"", b"GET"), ANSWER + b"content-length: 0\r\n\r\n"),
    "an error": Case(post(b"", b"", b"GET"), b"HTTP/1.1 503 Busy\r\nretry-after: 3\r\n" + length(b"busy")),
    "a large answer": Case(post(b"", b"", b"GET"), ANSWER + length(BIG)),
    "a chunked answer": Case(
        post(b"", b"", b"GET"), ANSWER + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    ),
    "a chunked answer of nothing": Case(
        post(b"", b"", b"GET"), ANSWER + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a chunked answer with trailers": Case(
        post(b"te: trailers\r\n", b"", b"GET"),
        ANSWER + b"trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 9\r\n\r\n",
    ),
    "an answer that ends with the connection": Case(post(b"", b"", b"GET"), ANSWER + b"\r\nuntil the end", closes=True),
    "103 before 200": Case(
        post(b"", b"", b"GET"), b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ANSWER + length(b"ok")
    ),
    "an answer with content coding": Case(
        post(b"accept-encoding: gzip\r\n", b"", b"GET"), ANSWER + b"content-encoding: gzip\r\n" + length(b"\x1f\x8b...")
    ),
}


def play(stack: RunningStack, backend: RawBackend, case: Case) -> tuple[Message, Message, Head]:
    """One case through one stack: what the backend got, and what the client got."""
    got: list[Message] = []

    def script(connection: Connection, head: Head) -> None:
        got.append(connection.finish(head))
        connection.send(case.answer)
        if case.closes:
            connection.close()

    path = backend.on(script)
    with Connection.to(stack.port) as client:
        client.send(case.request.replace(b"PATH", path.encode()))
        answer = client.read_message(no_body=case.request.startswith(b"HEAD"))
    (request,) = got
    line = request.head.line.replace(path, "PATH")
    return request, answer, Head(line, request.head.headers)


def comparable(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers without those that this stack adds, those of the moment with their names only; sorted."""
    return sorted((name, "" if name in OF_THE_MOMENT else value) for name, value in headers if name not in OURS)


@pytest.mark.parametrize("name", CASES)
def test_same_with_and_without_the_recorder(
    raw_stack: RunningStack, plain_stack: RunningStack, raw_backend: RawBackend, name: str
) -> None:
    """Start line, headers, framing, body and trailers, at both ends."""
    request, answer, head = play(raw_stack, raw_backend, CASES[name])
    plain_request, plain_answer, plain_head = play(plain_stack, raw_backend, CASES[name])
    assert head.line == plain_head.line
    assert comparable(head.headers) == comparable(plain_head.headers)
    assert (request.body, request.trailers) == (plain_request.body, plain_request.trailers)
    assert answer.head.line == plain_answer.head.line
    assert comparable(answer.head.headers) == comparable(plain_answer.head.headers)
    assert (answer.body, answer.trailers) == (plain_answer.body, plain_answer.trailers)
    assert answer.ended_by_close == plain_answer.ended_by_close


def test_content_length_is_kept(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Also at sizes that are not held: ext_proc alone would make both directions chunked."""
    for body in (b"x" * 15, BIG):
        case = Case(post(b"content-length: %d\r\n" % len(body), body), ANSWER + length(body))
        request, answer, _ = play(raw_stack, raw_backend, case)
        assert request.head.get("content-length") == answer.head.get("content-length") == str(len(body))
        assert request.head.get("transfer-encoding") is answer.head.get("transfer-encoding") is None


def test_nobody_sees_the_private_header(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Neither side can see it, or set it: what a client or a backend sends under its name goes."""
    forged = b"x-extproc-content-length: 3\r\n"
    case = Case(post(forged + b"content-length: 5\r\n", b"hello"), ANSWER + forged + length(b"hello"))
    request, answer, _ = play(raw_stack, raw_backend, case)
    assert request.head.get("content-length") == answer.head.get("content-length") == "5"
    assert request.head.get("x-extproc-content-length") is answer.head.get("x-extproc-content-length") is None
    chunked = Case(post(forged + b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"))
    request, _, _ = play(raw_stack, raw_backend, chunked)
    assert request.head.get("content-length") is None
    assert request.body == b"hello"


def test_our_headers_cannot_be_forged(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """x-audit-id and x-upstream are ours: once, and true, whatever client and backend send."""
    forged = b"x-audit-id: forged\r\nx-upstream: forged\r\nx-audit-id: twice\r\nx-real-ip: 6.6.6.6\r\n"
    case = Case(post(forged + b"x-forwarded-for: 6.6.6.6\r\n", b"", b"GET"), ANSWER + forged + length(b"ok"))
    request, answer, _ = play(raw_stack, raw_backend, case)
    assert request.head.get("x-audit-id") is request.head.get("x-upstream") is None
    assert [value for name, value in request.head.headers if name == "x-real-ip"] == ["127.0.0.1"]
    assert (request.head.get("x-forwarded-for") or "").startswith("6.6.6.6,")
    ids = [value for name, value in answer.head.headers if name == "x-audit-id"]
    assert [raw_stack.exchange(id).outcome for id in ids] == ["ok"]
    upstream = f"127.0.0.1:{raw_backend.port}"
    assert [value for name, value in answer.head.headers if name == "x-upstream"] == [upstream]
    assert raw_stack.exchange(ids[0]).upstream == upstream


def test_request_ids_are_envoys(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """A client cannot choose the key that logs are joined by."""
    request, answer, _ = play(raw_stack, raw_backend, Case(post(b"x-request-id: ../../etc/x\r\n", b"", b"GET")))
    request_id = request.head.get("x-request-id")
    assert request_id != "../../etc/x"
    assert raw_stack.exchange(answer.head.get("x-audit-id") or "").request_id == request_id


def test_expect_100_continue(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """A client that waits to be asked for its body is asked, although the request is held."""

    def script(connection: Connection, head: Head) -> None:
        assert connection.finish(head).body == b"hello"
        connection.send(ANSWER + length(b"ok"))

    path = raw_backend.on(script).encode()
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n" % path)
        assert client.read_head().status == 100
        client.send(b"hello")
        assert client.read_message().body == b"ok"


def test_pipelined_requests_are_answered_in_order(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Ten requests in one write: ten answers in their order, ten exchanges."""

    def script(connection: Connection, head: Head) -> None:
        message = connection.finish(head)
        connection.send(ANSWER + length(b"answer to " + message.body))

    paths = [raw_backend.on(script) for _ in range(10)]
    with Connection.to(raw_stack.port) as client:
        client.send(
            b"".join(
                b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n%d" % (path.encode(), number)
                for number, path in enumerate(paths)
            )
        )
        answers = [client.read_message() for _ in paths]
    assert [answer.body for answer in answers] == [b"answer to %d" % number for number in range(10)]
    ids = [answer.head.get("x-audit-id") or "" for answer in answers]
    assert [raw_stack.exchange(id).path for id in ids] == paths


# What Envoy's codec refuses ---------------------------------------------------------------------------------

GET = b"GET PATH HTTP/1.1\r\nhost: a\r\n"
REFUSED = {
    "70 kB of headers": GET + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
    "101 headers": GET + b"".join(b"x%d: a\r\n" % number for number in range(101)) + b"\r\n",
    "a name that is none": GET + b"x y: a\r\n\r\n",
    "an empty name": GET + b": a\r\n\r\n",
    "NUL in a value": GET + b"x: a\0b\r\n\r\n",
    "two lengths": post(b"content-length: 1\r\ncontent-length: 2\r\n", b"a"),
    "a length that is none": post(b"content-length: x\r\n", b""),
    "a length and chunks": post(b"content-length: 1\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"),
    "a transfer coding that is none": post(b"transfer-encoding: gzip\r\n", b""),
    "HTTP/1.0": b"GET PATH HTTP/1.0\r\nhost: a\r\n\r\n",
    "HTTP/9.9": b"GET PATH HTTP/9.9\r\nhost: a\r\n\r\n",
    "no host": b"GET PATH HTTP/1.1\r\n\r\n",
    "no version": b"GET PATH\r\n\r\n",
    "a method that is none": b"G(T PATH HTTP/1.1\r\nhost: a\r\n\r\n",
    "no HTTP at all": b"hello\r\n\r\n",
    "TLS to a port without it": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 32 + b"\r\n\r\n",
}


def whole_answer(stack: RunningStack, request: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """What comes back."""
    with Connection.to(stack.port) as client:
        client.send(request)
        answer = client.read_message()
    return answer.head.line, comparable(answer.head.headers), answer.body


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_of_the_codec_arrives(raw_stack: RunningStack, plain_stack: RunningStack, name: str) -> None:
    """Envoy's own 431, 400, 426 or 501 is the same answer as without the recorder, and not an empty close."""
    request = REFUSED[name].replace(b"PATH", b"/refused")
    line, headers, body = whole_answer(plain_stack, request)
    assert int(line.split(" ")[1]) in (400, 426, 431, 501)
    assert whole_answer(raw_stack, request) == (line, headers, body)


H2 = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/refused")]
H2_REFUSED: dict[str, list[tuple[str, str]]] = {
    "70 kB of headers": [*H2, ("x", "a" * 70_000)],
    "101 headers": [*H2, *((f"x{number}", "a") for number in range(101))],
    "a name in capitals": [*H2, ("X-A", "a")],
    "two lengths": [*H2, ("content-length", "1"), ("content-length", "2")],
    "a length that is none": [*H2, ("content-length", "x")],
    "a header of the connection's": [*H2, ("transfer-encoding", "chunked")],
    "no path": H2[:3],
    "no method": H2[1:],
    "no scheme": [H2[0], *H2[2:]],
    "a pseudo header that is none": [*H2, (":x", "a")],
}


def h2_end(stack: RunningStack, headers: list[tuple[str, str]]) -> list[str]:
    """How one request over HTTP/2 ends: its status and headers, or with what code its stream or connection."""
    config = H2Configuration(header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False)
    h2 = H2Connection(config)
    h2.initiate_connection()
    h2.send_headers(1, headers, end_stream=True)
    seen: list[str] = []
    with Connection.to(stack.port) as client:
        client.send(h2.data_to_send())
        while not seen or not seen[-1].startswith("end"):
            try:
                events = h2.receive_data(client.read_some(65536))
            except Closed:
                return [*seen, "closed"]
            for event in events:
                match event:
                    case ResponseReceived():
                        pairs = [(str(name), str(value)) for name, value in event.headers or ()]
                        seen += [f"{name}: {value}" for name, value in comparable(pairs)]
                    case StreamEnded():
                        seen.append("end")
                    case StreamReset() | ConnectionTerminated():
                        seen.append(f"end {type(event).__name__} {event.error_code}")
    return seen


@pytest.mark.parametrize("name", H2_REFUSED)
def test_a_refusal_of_the_codec_arrives_over_http2(
    raw_stack: RunningStack, plain_stack: RunningStack, name: str
) -> None:
    """The same answer, or the same code for stream or connection, as without the recorder."""
    assert h2_end(raw_stack, H2_REFUSED[name]) == h2_end(plain_stack, H2_REFUSED[name])


def test_a_chunk_that_is_none_ends_the_connection(raw_stack: RunningStack) -> None:
    """The one refusal that does not arrive: the request has its route, and Envoy closes while its 400 still waits for
    the recorder. It is on record, with Envoy's reason."""
    with Connection.to(raw_stack.port) as client:
        client.send(post(b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\nzz\r\n").replace(b"PATH", b"/no-chunk"))
        assert client.read_to_end() == b""
    exchange = raw_stack.exchange_of("/no-chunk")
    assert (exchange.status, exchange.response_code_details) == (400, "http1.codec_error")


# Routes that somebody wrote before ---------------------------------------------------------------------------


def test_old_routes_do_not_lead_past_the_recorder(tmp_path: Path, raw_backend: RawBackend) -> None:
    """Routes that say nothing of the recorder are recorded, those that come while it runs as well; those that switch it
    off without a word are refused."""
    directory = tmp_path / "envoy"
    directory.mkdir()
    routes = directory / files.ROUTES

    def script(connection: Connection, head: Head) -> None:
        connection.finish(head)
        connection.send(ANSWER + length(b"ok"))

    def outcome(stack: RunningStack) -> str:
        path = raw_backend.on(script)
        with Connection.to(stack.port) as client:
            client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path.encode())
            answer = client.read_message()
        exchange = stack.exchange(answer.head.get("x-audit-id") or "")
        return f"{exchange.route} {exchange.outcome}"

    routes.write_text(OLD % "first")
    arguments = ("--backend", raw_backend.url, "--envoy-dir", directory, "--envoy-concurrency", "1")
    with RunningStack(tmp_path / "stack", *arguments) as stack:
        assert outcome(stack) == "first ok"
        routes.write_text(OLD % "second")
        eventually(lambda: outcome(stack) == "second ok", "the second routes")
        for off in (OFF % "FilterConfig", OFF.replace("config.route.v3.%s", "%s") % EXT_PROC_PER_ROUTE):
            routes.write_text((OLD % "third") + off)
            eventually(lambda: "the recorder is off for the whole virtual host" in stack.stderr(), "a refusal")
            assert outcome(stack) == "second ok"


OLD = """\
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: ingress
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: %s, match: {prefix: /}, route: {cluster: llm, timeout: 0s}}
"""
OFF = """\
    typed_per_filter_config:
      envoy.filters.http.ext_proc: {"@type": type.googleapis.com/envoy.config.route.v3.%s, disabled: true}
"""
EXT_PROC_PER_ROUTE = "extensions.filters.http.ext_proc.v3.ExtProcPerRoute"


# Upgrades --------------------------------------------------------------------------------------------------


def test_websockets_bypass_the_recorder(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """An upgraded connection carries bytes both ways and leaves no exchange."""

    def script(connection: Connection, head: Head) -> None:
        assert head.get("upgrade") == "websocket"
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello")
        assert connection.read_exactly(4) == b"ping"
        connection.send(b"pong")
        connection.read_to_end()

    path = raw_backend.on(script)
    with Connection.to(raw_stack.port) as client:
        upgrade = b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-key: a\r\nsec-websocket-version: 13\r\n"
        client.send(b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (path.encode(), upgrade))
        head = client.read_head()
        assert head.status == 101
        assert head.get("x-audit-id") is None
        assert client.read_exactly(5) == b"hello"
        client.send(b"ping")
        assert client.read_exactly(4) == b"pong"
    assert path not in [exchange.path for exchange in raw_stack.exchanges()]


def test_a_post_that_says_websocket_does_not_pass_unrecorded(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Only a GET can be an upgrade; the rest is refused, and that is recorded."""
    path = raw_backend.on(lambda connection, head: connection.close())
    with Connection.to(raw_stack.port) as client:
        upgrade = b"upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 2\r\n"
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\n%b\r\n{}" % (path.encode(), upgrade))
        assert client.read_head().status == 403


def test_connect_bypasses_the_recorder(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """CONNECT goes to the backend, which may refuse it; it is no exchange."""
    before = len(raw_stack.exchanges())
    with Connection.to(raw_stack.port) as client:
        client.send(b"CONNECT somewhere:443 HTTP/1.1\r\nhost: somewhere:443\r\n\r\n")
        assert client.read_head().status == 405
    assert len(raw_stack.exchanges()) == before


# The limit of the request's size ---------------------------------------------------------------------------

LIMIT = 100 * 1024 * 1024


def test_a_request_that_announces_too_much_gets_413(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Refused by its content-length, before its body; the refusal is an exchange."""
    path = raw_backend.on(lambda connection, head: connection.close())
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path.encode(), LIMIT + 1))
        answer = client.read_message()
    assert answer.head.status == 413
    exchange = raw_stack.exchange(answer.head.get("x-audit-id") or "")
    assert (exchange.status, exchange.outcome, exchange.upstream) == (413, "local_reply", None)


def test_a_chunked_request_that_grows_too_large_gets_413(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Refused when it passes the limit; the backend's connection is cut before the end."""

    def script(connection: Connection, head: Head) -> None:
        with pytest.raises(Closed):
            connection.finish(head)

    path = raw_backend.on(script)
    piece = b"x" * (1 << 20)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
        try:
            for _ in range(LIMIT // len(piece) + 1):
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        except ConnectionError:
            pass  # refused already
        answer = client.read_message()
    assert answer.head.status == 413
    exchange = raw_stack.exchange_of(path)
    assert (exchange.status, exchange.outcome) == (413, "local_reply")


def test_a_request_of_exactly_the_limit_passes(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """100 MiB pass, announced."""

    def script(connection: Connection, head: Head) -> None:
        size = int(head.get("content-length") or 0)
        while size:
            size -= len(connection.read_exactly(min(size, 1 << 20)))
        connection.send(ANSWER + length(b"ok"))

    path = raw_backend.on(script)
    piece = bytes(1 << 20)
    with Connection.to(raw_stack.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path.encode(), LIMIT))
        for _ in range(LIMIT // len(piece)):
            client.send(piece)
        assert client.read_message().head.status == 200
    assert present(raw_stack.exchange_of(path).request).bytes == LIMIT
