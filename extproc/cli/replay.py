"""`extproc replay`: a recorded request once more, to the byte, or as a curl command.

Credentials were never recorded. They come from variables of the environment (`--credential`), from `--header` or from
a file; one that is missing is told before anything is sent. Headers that belong to one connection, or that Envoy or
the recorder's own chain added, are left out.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli import curl, options, output
from extproc.cli.request import TOKEN, Request, Text, Variable, prepare, resolve
from extproc.core.redact import parameter_name
from extproc.errors import ConfigError, ExtprocError
from extproc.history import bodies

CONNECT_SECONDS: Final = 10.0

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
    if not colon or not TOKEN.fullmatch(name.strip()) or re.search(r"[\r\n\0]", value):
        raise click.UsageError(f"{place}: 'Name: value' would be right")
    return name.strip().lower(), value.strip().encode()


def given_credentials(texts: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=ENV` from the command line: the variables of each name, in their order."""
    credentials: dict[str, list[str]] = {}
    for text in texts:
        name, _, variable = text.rpartition("=")
        # Neither is repeated: somebody may well have written the credential itself.
        if not name or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise click.UsageError("--credential: NAME=ENV would be right, ENV the name of a variable that holds it")
        credentials.setdefault(parameter_name(name), []).append(variable)
    return credentials


def send(request: Request, url: str) -> int:
    """Send the request to the server at `url` and write the answer out as it comes. Returns the status."""
    target = _target(request.target)
    headers = [(name, resolve(text, os.environ)) for name, text in request.headers]
    connection = _connect(url)
    received = 0
    try:
        try:
            _put(connection, request, target, headers)
            answer = connection.getresponse()
            _print_status(answer)
            for data in _pieces(answer):
                received += len(data)
                _write(data)
        except ValueError as error:  # a method that no request line can hold
            raise ExtprocError(f"{request.id}: it cannot be sent: {error}") from error
        except (http.client.HTTPException, ConnectionError) as error:
            if isinstance(error, BrokenPipeError) and received:
                raise
            raise ExtprocError(
                f"{url}: the connection broke after {received} bytes of the answer: {error!r}"
            ) from error
        return answer.status
    finally:
        connection.close()


def _target(text: Text) -> str:
    for part in text:
        if isinstance(part, Variable) and not re.fullmatch(rb"[!\"$%'-~]+", part.value(os.environ)):
            raise ConfigError(f"--credential: the variable {part.name} has to be percent-encoded to stand in a URL")
    return resolve(text, os.environ).decode("ascii")


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


def _put(
    connection: http.client.HTTPConnection, request: Request, target: str, headers: Sequence[tuple[str, bytes]]
) -> None:
    connection.putrequest(request.method, target, skip_accept_encoding=True)
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
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="NAME=ENV",
    help="Put what was not recorded back: the header or query parameter NAME, from the variable ENV.",
)
@click.option("--no-credentials", is_flag=True, help="Send it without those that were not recorded.")
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
    credentials: Sequence[str],
    no_credentials: bool,
    headers: Sequence[str],
    header_files: Sequence[Path],
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Send a recorded request again, or print it as a curl command.

    The method, path, headers and body are the recorded ones, to the byte. Credentials were never recorded:
    --credential names the variables that hold them, once for each (in `authorization` a token alone is sent as
    `Bearer TOKEN`; in a query what has to be percent-encoded is). The answer goes to stdout as it comes, its status
    to stderr. Exit code 1: the answer is an error, or the connection broke, as it does when the request kills the
    server once more. 2: a credential is missing, and nothing was sent.

    \b
    Examples:
      extproc replay 019aa3f2 --to http://gpu-test:8000 --no-credentials
      extproc replay 019aa3f2 --to http://gpu-test:8000 --credential authorization=TEST_KEY
      extproc replay 019aa3f2 --to http://gpu-test:8000 --header-file key.txt
      extproc replay 019aa3f2 --to http://gpu-test:8000 --curl > crash.sh
    """
    if not as_curl and url is None:
        raise click.UsageError("--to URL or --curl says what to do.")
    given = given_credentials(credentials), given_headers(headers, header_files)
    exchange = options.one(id, options.existing(data_dirs, config_path))
    request = prepare(exchange, _body(exchange), *given)
    missing = output.escape(", ".join(request.missing))
    if as_curl:
        if missing and not no_credentials:
            click.echo(f"not recorded and left out: {missing} (--credential NAME=ENV puts it back)", err=True)
        click.echo(curl.script(request, url).encode(), nl=False)
        return
    assert url is not None
    if missing and not no_credentials:
        raise ConfigError(
            f"nothing was sent: {missing} was not recorded; --credential NAME=ENV puts it back from a variable, "
            "--no-credentials sends the request without it"
        )
    if send(request, url) >= 400:
        click.get_current_context().exit(1)


def _body(exchange: Mapping[str, Any]) -> bytes:
    part = exchange.get("request")
    body = bodies.whole(exchange, "request")
    if part is None or body is None:
        raise ExtprocError(f"{exchange.get('id')}: its request was not recorded")
    if part.get("ended_by") is None or part.get("truncated"):
        click.echo(f"the recorded body is not the whole one: {len(body)} bytes had come", err=True)
    return body
