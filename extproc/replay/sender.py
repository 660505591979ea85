"""One request on its way to a server: a thread that sends it, hears the answer, and hangs up when it is told to.

    sending = Sending(request, "http://gpu-test:8000")
    sending.start()
    while not sending.wait(1.0):
        ...                           # sending.silent: for how long nothing has come
    answer = sending.answer

The connection is one of its own. Only connecting has a time limit: a model may think for an hour, and whether that is
a hang is for others to decide.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from extproc.errors import ConfigError, ExtprocError
from extproc.replay.answer import Answer, Listener
from extproc.replay.request import Request, Text, Variable, resolve

CONNECT_SECONDS: Final = 10.0
_READ_BYTES: Final = 65536

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Leave:
    """Hang up as the recorded client did: after so many bytes of the answer, or so long after the start."""

    bytes: int | None = None
    seconds: float | None = None


class Hearer:
    """What is told of an answer as it comes. Both methods are called by the sending thread; these do nothing."""

    def status(self, answer: http.client.HTTPResponse) -> None:
        """The head of the answer is there."""

    def data(self, data: bytes) -> None:
        """A piece of its body."""


class Sending:
    """One request. `start` once; the other methods are for any thread."""

    def __init__(self, request: Request, url: str, hearer: Hearer | None = None, leave: Leave | None = None) -> None:
        self.request = request
        self._url = url
        self._hearer = hearer or Hearer()
        self._leave = leave or Leave()
        self._target = _target(request.target)
        self._headers = [(name, resolve(text, os.environ)) for name, text in request.headers]
        self._listener = Listener(request, self._target)
        self._answer: Answer | None = None
        self._failure: BaseException | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._hung_up: Callable[[], Answer] | None = None
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"replay {request.id}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._heard = time.monotonic()
        self._thread.start()
        if self._leave.seconds is not None:
            timer = threading.Timer(self._leave.seconds, self.hang_up)
            timer.daemon = True
            timer.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most so long; whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def silent(self) -> float:
        """How long nothing has come."""
        return time.monotonic() - self._heard

    @property
    def answer(self) -> Answer:
        """What came of it, once it has ended. Raises what made it impossible to send or to write out."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        assert self._answer is not None
        return self._answer

    def give_up(self, why: str) -> None:
        """Wait no longer: it has been silent for too long."""
        self._hang_up(lambda: self._listener.fell_silent(why))

    def hang_up(self) -> None:
        """Leave, as the client did."""
        self._hang_up(self._listener.left)

    def _hang_up(self, ending: Callable[[], Answer]) -> None:
        self._hung_up = self._hung_up or ending
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._answer = self._exchange()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the answer
            self._failure = error

    def _exchange(self) -> Answer:
        try:
            self._connection = connection = _connect(self._url)
        except OSError as error:
            return self._listener.refused(f"cannot connect: {error}")
        try:
            _put(connection, self.request, self._target, self._headers)
            answer = connection.getresponse()
            self._heard = time.monotonic()
            self._listener.head(answer.status, answer.getheaders())
            self._tell(self._hearer.status, answer)
            for data in _pieces(answer):
                self._heard = time.monotonic()
                self._listener.body(data)
                self._tell(self._hearer.data, data)
                if self._leave.bytes is not None and self._listener.bytes >= self._leave.bytes:
                    return self._listener.left()
            return self._hung_up() if self._hung_up else self._listener.ended()
        except ValueError as error:  # a method that no request line can hold
            raise ExtprocError(f"{self.request.id}: it cannot be sent: {error}") from error
        except (http.client.HTTPException, OSError) as error:
            if self._hung_up is not None:
                return self._hung_up()
            return self._listener.broke(
                f"the connection broke after {self._listener.bytes} bytes of the answer: {error!r}"
            )
        except _NotHeardError as error:
            raise error.reason from None
        finally:
            connection.close()

    @staticmethod
    def _tell(listener: Callable[[T], None], what: T) -> None:
        try:
            listener(what)
        except OSError as error:
            raise _NotHeardError(error) from error


class _NotHeardError(Exception):
    """Whoever wanted to read the answer has gone: an error, but not the server's."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _target(text: Text) -> str:
    for part in text:
        if isinstance(part, Variable) and not re.fullmatch(rb"[!\"$%'-~]+", part.value(os.environ)):
            raise ConfigError(f"--credential: the variable {part.name} has to be percent-encoded to stand in a URL")
    return resolve(text, os.environ).decode("ascii")


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=CONNECT_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=CONNECT_SECONDS)
    connection.connect()
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
    while data := answer.read1(_READ_BYTES):
        yield data
    if answer.length:  # `read1` takes an early end of the connection for an end of the body
        raise http.client.IncompleteRead(b"", answer.length)
