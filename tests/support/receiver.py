"""A receiver of webhooks, on a port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Self

from support.http_servers import Quiet, serving


@dataclass(frozen=True)
class Post:
    """What was posted."""

    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Answers with `statuses`, one after the other, then with 204."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.statuses: list[int] = []
        receiver = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.posts.append(Post({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("content-length", "0")
                self.end_headers()

        self._handler = Handler
        self._running = contextlib.ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        self.url = f"http://127.0.0.1:{self._running.enter_context(serving(self._handler))}/hook"
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()
