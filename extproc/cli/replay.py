"""`extproc replay`: a recorded request once more, to the byte, or as a curl command.

Credentials were never recorded. They come from `--header` or a file; in a curl command a variable stands in
their place. Headers that belong to one connection, or that Envoy or the recorder's own chain added, are left out.
"""

from __future__ import annotations

import base64
import http.client
import re
import shlex
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli import options, output, view
from extproc.core.redact import MARK
from extproc.errors import ExtprocError
from extproc.journal import reader

CONNECT_SECONDS: Final = 10.0

_NOT_SENT: Final = frozenset(
    {
        # Of one connection (RFC 9110 section 7.6.1), or computed anew.
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # Added by Envoy on the way in: the replay does not come that way.
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-external-address",
        "x-envoy-internal",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
        # The replay is a request of its own, not a part of the recorded one's trace.
        "traceparent",
        "tracestate",
    }
)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRET: Final = re.compile(re.escape(MARK) + "[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request, ready to be sent: what may be sent of its headers, and which had to be left out."""

    id: str
    started_at: str
    method: str
    path: str
    origin: str
    headers: list[tuple[str, bytes]]
    secrets: list[str]
    body: bytes


def prepare(exchange: view.Exchange, body: bytes) -> Request:
    """The request of an exchange."""
    headers: list[tuple[str, bytes]] = []
    secrets: list[str] = []
    for name, value in view.header_list(exchange.get("request")):
        raw = view.header_bytes(value)
        if name in _NOT_SENT or not _TOKEN.fullmatch(name) or b"\r" in raw or b"\n" in raw or b"\0" in raw:
            continue
        if _SECRET.fullmatch(view.header_text(value)):
            secrets.append(name)
        else:
            headers.append((name, raw))
    return Request(
        id=str(exchange.get("id")),
        started_at=str(exchange.get("started_at")),
        method=str(exchange.get("method") or "POST"),
        path=str(exchange.get("path") or "/"),
        origin=f"{exchange.get('scheme') or 'http'}://{exchange.get('authority') or '127.0.0.1:8000'}",
        headers=headers,
        secrets=list(dict.fromkeys(secrets)),
        body=body,
    )


# A curl command --------------------------------------------------------------------------------------------


def curl(request: Request) -> str:
    """A shell script of one curl command that sends the request. Any POSIX shell runs it; any bytes are exact."""
    lines = [f"# {output.escape(request.id)}, recorded {output.escape(request.started_at)}"]
    lines += [f"# {name} was not recorded: set {_variable(name)} to send it" for name in request.secrets]
    if _SECRET.search(request.path):
        lines.append("# a credential in the query was not recorded: put it into the URL")
    words = ["curl --silent --show-error --no-buffer --globoff --path-as-is", f"--request {_quote(request.method)}"]
    words.append(f"--url {_quote(request.origin + request.path)}")
    words += [f"--header {_header(name, value)}" for name, value in request.headers]
    # An empty value makes curl leave the header out.
    words += [f'--header "{name}: ${{{_variable(name)}-}}"' for name in request.secrets]
    sent = {name for name, _ in request.headers}
    # What curl would add of its own; "Expect" would hold a large body back.
    added = ["accept", "user-agent", "expect", *(["content-type"] if request.body else [])]
    words += [f"--header '{name}:'" for name in added if name not in sent]
    before, after = "", ""
    if request.body:
        words.append("--data-binary @-")
        before, after = _body(request.body)
    return "\n".join([*lines, before + " \\\n  ".join(words) + after, ""])


def _body(body: bytes) -> tuple[str, str]:
    """What stands before and after the command so that it reads exactly these bytes."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    # What would change in a terminal or in a copy of it is not shown as it is.
    if output.escape_text(text) == text and "\t" not in text:
        return f"printf %s {shlex.quote(text)} | ", ""
    encoded = base64.encodebytes(body).decode("ascii")
    return "base64 -d <<'END_OF_BODY' | ", f"\n{encoded}END_OF_BODY"


def _quote(text: str) -> str:
    """A shell word for this text, in printable characters only."""
    if output.escape(text) == text:
        return shlex.quote(text)
    return _printf(text.encode("utf-8", "surrogatepass"))


def _header(name: str, value: bytes) -> str:
    """The word of a header; curl wants `name;` for one that is empty."""
    if not value.strip():
        return shlex.quote(f"{name};")
    raw = name.encode() + b": " + value
    try:
        return _quote(raw.decode())
    except UnicodeDecodeError:
        return _printf(raw)


def _printf(raw: bytes) -> str:
    plain = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/?&= ,;+")
    return "\"$(printf '" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in raw) + "')\""


def _variable(header: str) -> str:
    name = re.sub("[^A-Z0-9_]", "_", header.upper())
    return name if not name[0].isdigit() else "_" + name


# Sending ---------------------------------------------------------------------------------------------------


def given_headers(texts: Sequence[str], files: Sequence[Path]) -> list[tuple[str, bytes]]:
    """`K: V` from the command line and from files, in which empty lines and lines with # are passed over."""
    lines = [(text, "--header") for text in texts]
    for path in files:
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{path}: is not UTF-8 text") from error
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                lines.append((line, f"{path}:{number}"))
    return [_given_header(text, place) for text, place in lines]


def _given_header(text: str, place: str) -> tuple[str, bytes]:
    name, colon, value = text.partition(":")
    # The text is not repeated: it is most likely a credential.
    if not colon or not _TOKEN.fullmatch(name.strip()) or re.search(r"[\r\n\0]", value):
        raise click.UsageError(f"{place}: 'Name: value' would be right")
    return name.strip().lower(), value.strip().encode()


def send(request: Request, url: str, extra: Sequence[tuple[str, bytes]]) -> int:
    """Send the request to the server at `url` and write the answer out as it comes. Returns the status."""
    connection = _connect(url)
    given = {name for name, _ in extra}
    headers = [(name, value) for name, value in request.headers if name not in given] + list(extra)
    received = 0
    try:
        try:
            _put(connection, request, headers)
            answer = connection.getresponse()
            _print_status(answer)
            for data in _pieces(answer):
                received += len(data)
                _write(data)
        except (http.client.HTTPException, ConnectionError) as error:
            if isinstance(error, BrokenPipeError) and received:
                raise
            raise ExtprocError(
                f"{url}: the connection broke after {received} bytes of the answer: {error!r}"
            ) from error
        return answer.status
    finally:
        connection.close()


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CONNECT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS)
    try:
        connection.connect()
    except OSError as error:
        raise ExtprocError(f"{url}: cannot connect: {error}") from error
    # A model may think for an hour: only connecting has a limit.
    assert isinstance(connection.sock, socket.socket)
    connection.sock.settimeout(None)
    return connection


def _put(connection: http.client.HTTPConnection, request: Request, headers: Sequence[tuple[str, bytes]]) -> None:
    path = urllib.parse.quote(request.path, safe="".join(map(chr, range(0x21, 0x7F))))
    connection.putrequest(request.method, path, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if request.body or request.method in {"POST", "PUT", "PATCH"}:
        connection.putheader("content-length", str(len(request.body)))
    connection.endheaders(request.body or None)


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while data := answer.read1(65536):
        yield data
    if answer.length:  # `read1` takes an early end of the connection for an end of the body
        raise http.client.IncompleteRead(b"", answer.length)


def _print_status(answer: http.client.HTTPResponse) -> None:
    version = "1.1" if answer.version == 11 else "1.0"
    click.echo(f"HTTP/{version} {answer.status} {output.escape(answer.reason)}", err=True)


def _write(data: bytes) -> None:
    """The answer's bytes as they are into a pipe, and made harmless for a terminal."""
    if output.is_terminal():
        sys.stdout.write(output.escape_text(data.decode("utf-8", "backslashreplace")))
        sys.stdout.flush()
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class Server(click.ParamType[str]):
    """The URL of a server: where to, and nothing about what."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        try:
            parts = urllib.parse.urlsplit(value)
            fine = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
            fine = fine and not parts.query and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            fine = False
        if not fine:
            self.fail(
                f"{value!r} is no server; http://HOST:PORT would be right (the path is the recorded one)", param, ctx
            )
        return str(value).rstrip("/")


@click.command
@click.argument("id")
@click.option("--to", "url", type=Server(), metavar="URL", help="Send it to this server: http://HOST:PORT.")
@click.option("--curl", "as_curl", is_flag=True, help="Print a curl command instead; with --to, for that server.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'K: V'", help="Send this header, too.")
@click.option(
    "--header-file",
    "header_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Send the headers in this file, a line each: for credentials.",
)
@options.journal_directories
def command(
    id: str,
    url: str | None,
    as_curl: bool,
    headers: Sequence[str],
    header_files: Sequence[Path],
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Send a recorded request again, or print it as a curl command.

    The method, path, headers and body are the recorded ones, to the byte. Credentials were never recorded: they come
    from --header or --header-file. The answer goes to stdout as it comes, its status to stderr. Exit code 1: the
    answer is an error, or the connection broke, as it does when the request kills the server once more.

    \b
    Examples:
      extproc replay 019aa3f2 --to http://gpu-test:8000
      extproc replay 019aa3f2 --to http://gpu-test:8000 --header-file key.txt
      extproc replay 019aa3f2 --curl > crash.sh
    """
    if not as_curl and url is None:
        raise click.UsageError("--to URL or --curl says what to do.")
    exchange = options.one(id, options.existing(data_dirs, config_path))
    request = _recorded(exchange)
    extra = given_headers(headers, header_files)
    if as_curl:
        click.echo(curl(_changed(request, url, extra)), nl=False)
        return
    assert url is not None
    if request.secrets and not {name for name, _ in extra} & set(request.secrets):
        names = output.escape(", ".join(request.secrets))
        click.echo(f"not recorded and not sent: {names} (--header or --header-file adds it)", err=True)
    if send(request, url, extra) >= 400:
        click.get_current_context().exit(1)


def _recorded(exchange: Mapping[str, Any]) -> Request:
    part = exchange.get("request")
    body = reader.body(exchange, "request")
    if part is None or body is None:
        raise ExtprocError(f"{exchange.get('id')}: its request was not recorded")
    if part.get("ended_by") is None or part.get("truncated"):
        click.echo(f"the recorded body is not the whole one: {len(body)} bytes had come", err=True)
    return prepare(exchange, body)


def _changed(request: Request, url: str | None, extra: Sequence[tuple[str, bytes]]) -> Request:
    given = {name for name, _ in extra}
    return Request(
        id=request.id,
        started_at=request.started_at,
        method=request.method,
        path=request.path,
        origin=url or request.origin,
        headers=[pair for pair in request.headers if pair[0] not in given] + list(extra),
        secrets=[name for name in request.secrets if name not in given],
        body=request.body,
    )
