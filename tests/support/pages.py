"""The page's server in this process, in a thread of its own: real requests over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from support.browser import Page

from extproc.cli import filters
from extproc.page.server import Settings, serve
from extproc.page.tokens import Tokens

PATIENCE_SECONDS = 90.0


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class RunningPage:
    """From entering to leaving."""

    def __init__(
        self,
        *directories: Path,
        tokens: Tokens | None = None,
        redact: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        tick_seconds: float = 0.1,
        servers: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = Settings(
            directories, host, port, tokens, redact, "http://jaeger.test", tick_seconds, servers or {}
        )

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(serve(self._settings, filters.of_words, self._listening))
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _listening(self, _: str, port: int) -> None:
        self.port = port
        self._ready.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request; `sec_fetch_site="none"` is the header of that name."""
        return self.send(path, method, b"", headers)

    def send(self, path: str, method: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One with a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, headers=named)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        """The JSON under /api/v1."""
        answer = self.ask(f"/api/v1{path}", **headers)
        assert answer.status == 200, (path, answer.status, answer.body)
        return answer.json()


def well(tab: Page, page: RunningPage) -> None:
    """Nothing went wrong in a tab, and nothing was asked of another machine."""
    assert tab.complaints() == []
    assert [url for url in tab.asked() if not url.startswith((page.url, "blob:", "about:"))] == []
