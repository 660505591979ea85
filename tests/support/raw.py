"""HTTP/1 at the socket: a client and a backend that see and send the very bytes.

with RawBackend() as backend:
    path = backend.on(script)                     # script(connection, head) for each request of that path
    client = Connection.to(stack.port)
    client.send(b"GET %b HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n" % path.encode())
    head = client.read_head()
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

SOCKET_SECONDS = 150.0
"""Only what hangs ever meets it."""


class Closed(Exception):
    """The peer has closed or reset the connection. `rest` is what came before."""

    def __init__(self, rest: bytes, *, reset: bool) -> None:
        super().__init__(f"{'reset' if reset else 'closed'} after {rest[-200:]!r}")
        self.rest = rest
        self.reset = reset


@dataclasses.dataclass(frozen=True)
class Head:
    """A start line and its headers, as they came; names in lower case."""

    line: str
    headers: list[tuple[str, str]]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    def get(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)


@dataclasses.dataclass
class Message:
    """A head with what followed it."""

    head: Head
    body: bytes
    trailers: list[tuple[str, str]]
    ended_by_close: bool = False


class Connection:
    """One end of a TCP connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(SOCKET_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._buffer = bytearray()

    @classmethod
    def to(cls, port: int) -> Self:
        return cls(socket.create_connection(("127.0.0.1", port), SOCKET_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """End it with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read_until(self, marker: bytes) -> bytes:
        """What comes up to the marker, with it."""
        while (at := self._buffer.find(marker)) < 0:
            self._more()
        return self._take(at + len(marker))

    def read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        return self._take(size)

    def read_some(self, most: int) -> bytes:
        """What is there, at least one byte and at most so many."""
        if not self._buffer:
            self._more()
        return self._take(min(most, len(self._buffer)))

    def read_to_end(self) -> bytes:
        """Everything until the peer closes; Closed when it resets."""
        try:
            while True:
                self._more()
        except Closed as closed:
            if closed.reset:
                raise
            return self._take(len(self._buffer))

    def nothing_yet(self) -> bool:
        """Whether no byte is there to be read at this moment."""
        self.socket.setblocking(False)
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return not self._buffer
        finally:
            self.socket.settimeout(SOCKET_SECONDS)
        self._buffer += data
        return False

    def read_head(self) -> Head:
        text = self.read_until(b"\r\n\r\n").decode("latin-1")
        line, *fields = text[:-4].split("\r\n")
        return Head(line, _fields(fields))

    def read_message(self, *, no_body: bool = False) -> Message:
        """A head and its body, by its framing. `no_body`: the answer to a HEAD request."""
        head = self.read_head()
        return self.finish(head, no_body=no_body)

    def finish(self, head: Head, *, no_body: bool = False) -> Message:
        """The message to which a head belongs that was read already."""
        is_answer = head.line.startswith("HTTP/")
        if no_body or (is_answer and head.status in (101, 204, 304)):
            return Message(head, b"", [])
        length = head.get("content-length")
        if length is not None:
            return Message(head, self.read_exactly(int(length)), [])
        if "chunked" in (head.get("transfer-encoding") or ""):
            return self._chunked(head)
        if is_answer:
            return Message(head, self.read_to_end(), [], ended_by_close=True)
        return Message(head, b"", [])

    def read_chunk(self) -> bytes:
        """One chunk of a chunked body; the last one is empty, and its trailers are still to be read."""
        size = int(self.read_until(b"\r\n").split(b";")[0], 16)
        return self.read_exactly(size + 2)[:-2] if size else b""

    def _chunked(self, head: Head) -> Message:
        body = bytearray()
        while chunk := self.read_chunk():
            body += chunk
        trailers = []
        while line := self.read_until(b"\r\n")[:-2]:
            trailers.append(line.decode("latin-1"))
        return Message(head, bytes(body), _fields(trailers))

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            raise Closed(bytes(self._buffer), reset=True) from None
        if not data:
            raise Closed(bytes(self._buffer), reset=False)
        self._buffer += data


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in lines)
    return [(name.lower(), value.strip()) for name, _, value in pairs]


Script = Callable[[Connection, Head], None]
"""Plays the backend's part for one request; the connection is used again if it leaves it open."""


def _healthy(connection: Connection, head: Head) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


class RawBackend:
    """A backend that does what scripts say, a thread for each connection. Health checks and CONNECT it answers by
    itself."""

    def __init__(self, certificate: Path | None = None, port: int = 0) -> None:
        """With a certificate (and its key, in one file) it speaks TLS. Without a port, on any free one."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._tls = None if certificate is None else self._context(certificate)
        self.server_names: list[str | None] = []
        """The names that clients asked for (SNI)."""
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.errors: list[BaseException] = []
        self.otherwise: Script | None = None
        """The script of every path that has none of its own."""
        self.health: Script = _healthy
        self._open: set[socket.socket] = set()
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse new connections, and cut those that are there."""
        # Closing alone does not wake the thread that waits in accept, and the port would stay open for one more.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def on(self, script: Script, prefix: str = "/raw/") -> str:
        """A path of its own for this script: the prefix and a number."""
        path = f"{prefix}{next(self._numbers)}"
        self._scripts[path] = script
        return path

    def _context(self, certificate: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
        return context

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        self._open.add(sock)
        try:
            if self._tls is not None:
                connection = Connection(self._tls.wrap_socket(sock, server_side=True))
            while connection.socket.fileno() >= 0:
                head = connection.read_head()
                if head.path == "/health":
                    self.health(connection, head)
                elif head.line.startswith("CONNECT "):
                    connection.send(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
                else:
                    script = self._scripts.get(head.path) or self._scripts.get(
                        head.path.partition("?")[0], self.otherwise
                    )
                    assert script is not None, f"nobody expects {head.line}"
                    script(connection, head)
        except (Closed, ConnectionError, ssl.SSLError):
            pass
        except BaseException as error:  # noqa: BLE001 - handed over to the test's thread
            self.errors.append(error)
        finally:
            self._open.discard(sock)
            connection.close()
