"""A small HTTP server in the test's process, on a port of its own."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Quiet:
    """A handler that says nothing of what it is asked."""

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port on which it answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def trickling(after: bytes = b"") -> Iterator[int]:
    """The port of a server that answers everything a byte at a time, for ever, after these bytes."""
    over = threading.Event()

    class Trickling(Quiet, BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            with contextlib.suppress(OSError):
                self.wfile.write(after or b"HTTP/1.1 200 OK\r\nx-long: ")
                while not over.wait(0.02):
                    self.wfile.write(b"<")
            self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815

    with serving(Trickling) as port:
        try:
            yield port
        finally:
            over.set()
