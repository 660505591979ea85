"""The page's HTTP side, on aiohttp: the files of the front end, and `/api/v1` over `source`.

    await serve(settings, query, ready)      # until it is cancelled

Reading waits for files, so it is done in two threads; the loop itself only passes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from extproc import __version__
from extproc.core.record import json_line
from extproc.errors import ConfigError, ExtprocError
from extproc.page import api
from extproc.page.access import AccessLog
from extproc.page.actions import Actions, Refused
from extproc.page.commands import CommandFailed, Said, printed
from extproc.page.events import TICK_SECONDS, Feed
from extproc.page.guard import WHO, Guard, middleware, with_headers
from extproc.page.source import MOST, PageSource, Query, words_of
from extproc.page.tokens import Tokens
from extproc.page.types import About, Hold, SendAgain

T = TypeVar("T")
Ready = Callable[[str, int], None]
"""Told of the address that is listened on."""

log = logging.getLogger("extproc.page")

_THREADS: Final = 2
_DEFAULT_LIMIT: Final = 100
_OWN: Final = frozenset({"q", "limit", "before", "view", "all", "by"})
"""Query parameters that are no filters."""
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUS_SECONDS: Final = 2.0
_INCIDENTS_SECONDS: Final = 20.0
_PIECE: Final = 65536


@dataclass(frozen=True, slots=True)
class Settings:
    """Where it listens, and what it shows to whom."""

    directories: Sequence[Path]
    host: str = "127.0.0.1"
    port: int = 9465
    tokens: Tokens | None = None
    redact: bool = False
    jaeger_url: str = ""
    tick_seconds: float = TICK_SECONDS
    servers: Mapping[str, str] = field(default_factory=dict)
    """Test servers by name: to these a request may be sent again."""


class Page:
    """The application."""

    def __init__(self, settings: Settings, query: Query) -> None:
        self._settings = settings
        self._source = PageSource(settings.directories, query, redact=settings.redact)
        self._threads = ThreadPoolExecutor(_THREADS, "reading")
        self._feed = Feed(lambda: self._read(lambda: self._source.live(200)), settings.tick_seconds)
        redacted = ("--redact",) if settings.redact else ()
        self._incidents = Said(("incidents", "--json", *redacted), settings.directories, _INCIDENTS_SECONDS)
        self._status = Said(("status", "--json"), settings.directories, _STATUS_SECONDS)
        self._access = AccessLog(settings.directories[0])
        self._actions = Actions(self._source, settings.servers)

    def application(self) -> web.Application:
        """Everything that is answered."""
        guard = Guard(self._settings.host, self._settings.tokens)
        application = web.Application(middlewares=[middleware(guard), _problems])
        application.on_response_prepare.append(with_headers)
        application.on_cleanup.append(self._close)
        get = application.router.add_get
        handlers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "/exchanges": self._exchanges,
            "/exchanges/{id}": self._one,
            "/exchanges/{id}/body/{direction}": self._body,
            "/exchanges/{id}/curl": self._curl,
            "/exchanges/{id}/rare": self._rare,
            "/exchanges/{id}/conversation": self._conversation,
            "/counts": self._counts,
            "/histogram": self._histogram,
            "/inflight": self._in_flight,
            "/incidents": self._incidents_found,
            "/status": self._status_found,
            "/envoy": self._envoy_files,
            "/about": self._about,
            "/events": self._events,
            "/quarantine": self._held,
            "/openapi.json": self._openapi,
        }
        actions: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            ("post", "/quarantine"): self._hold,
            ("delete", "/quarantine/{entry}"): self._let_go,
            ("post", "/exchanges/{id}/replay"): self._replay,
        }
        for path in api.OPERATIONS:
            get(api.BASE + path, handlers[path], allow_head=path != "/events")
        for method, path in api.ACTIONS:
            application.router.add_route(method, api.BASE + path, actions[method, path])
        for name, (kind, content) in _files().items():
            get("/" if name == "index.html" else f"/{name}", _static(kind, content))
        return application

    async def _close(self, _: web.Application) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    # Lists -----------------------------------------------------------------------------------------------------

    async def _exchanges(self, request: web.Request) -> web.StreamResponse:
        asked = request.query
        rows = asked.get("view") == "rows"
        if not rows:
            await self._note(request)
        limit = _limit(asked.get("limit"))
        words, before, running = _words(request), asked.get("before"), asked.get("all") == "yes"
        return await _answer(
            self._read(lambda: self._source.exchanges(words, limit=limit, before=before, rows=rows, running=running))
        )

    async def _counts(self, request: web.Request) -> web.StreamResponse:
        words, by = _words(request), request.query.get("by", "outcome")
        return await _answer(self._read(lambda: self._source.counts(words, by)))

    async def _histogram(self, request: web.Request) -> web.StreamResponse:
        words = _words(request)
        return await _answer(self._read(lambda: self._source.histogram(words)))

    async def _in_flight(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        return await _answer(self._read(self._source.in_flight))

    # One -------------------------------------------------------------------------------------------------------

    async def _one(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        id, bodies = request.match_info["id"], request.query.get("bodies") != "no"
        pieces = await self._read(lambda: self._source.one(id, bodies=bodies))
        first = await self._read(lambda: next(pieces, ""))
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        piece = first
        while piece:
            for start in range(0, len(piece), _PIECE):
                await response.write(piece[start : start + _PIECE].encode())
            piece = await self._read(lambda: next(pieces, ""))
        await response.write_eof()
        return response

    async def _body(self, request: web.Request) -> web.StreamResponse:
        direction = request.match_info["direction"]
        if direction not in {"request", "response"}:
            raise web.HTTPNotFound
        await self._note(request)
        id, decoded = request.match_info["id"], request.query.get("decoded") == "yes"
        whole_id, body = await self._read(lambda: self._source.body(id, direction, decoded=decoded))
        disposition = f'attachment; filename="{whole_id}.{direction}"'
        return web.Response(
            body=body, content_type="application/octet-stream", headers={"content-disposition": disposition}
        )

    async def _curl(self, request: web.Request) -> web.StreamResponse:
        if self._settings.redact:
            raise ConfigError("a curl command has texts, which this page does not show")
        await self._note(request)
        id = request.match_info["id"]
        # What an address says is no word of a command line: only the id of an exchange that is there.
        whole_id = await self._read(lambda: self._source.whole_id(id))
        script = await printed(("replay", whole_id, "--curl"), self._settings.directories)
        return web.Response(body=script, content_type="text/plain", charset="utf-8")

    async def _rare(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        return await _answer(self._read(lambda: self._source.rare(id)))

    async def _conversation(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        return await _answer(self._read(lambda: self._source.conversation(id)))

    async def _note(self, request: web.Request, what: str | None = None) -> None:
        """Reading prompts is noted where a token says who reads; and whatever does something."""
        if who := request[WHO]:
            what, remote = what or request.path_qs, request.remote
            await self._read(lambda: self._access.add(who=who, what=what, remote=remote))

    # What does something ---------------------------------------------------------------------------------------

    async def _held(self, _: web.Request) -> web.StreamResponse:
        return await _answer(self._read(self._actions.held))

    async def _hold(self, request: web.Request) -> web.StreamResponse:
        asked = await _sent(request, Hold)
        await self._note(request, f"quarantine add {asked.id}")
        return await _answer(self._actions.add(asked.id, expires=asked.expires, mode=asked.mode))

    async def _let_go(self, request: web.Request) -> web.StreamResponse:
        entry = request.match_info["entry"]
        await self._note(request, f"quarantine remove {entry}")
        await self._actions.remove(entry)
        return _json({})

    async def _replay(self, request: web.Request) -> web.StreamResponse:
        id, asked = request.match_info["id"], await _sent(request, SendAgain)
        await self._note(request, f"replay {id} to {asked.to}")
        return await _answer(self._actions.replay(id, asked.to))

    # The rest --------------------------------------------------------------------------------------------------

    async def _incidents_found(self, _: web.Request) -> web.StreamResponse:
        return await _answer(self._incidents.objects())

    async def _status_found(self, _: web.Request) -> web.StreamResponse:
        return await _answer(self._status.objects())

    async def _envoy_files(self, _: web.Request) -> web.StreamResponse:
        return await _answer(self._read(self._source.envoy_files))

    async def _about(self, request: web.Request) -> web.StreamResponse:
        settings = self._settings
        directories = [str(each) for each in settings.directories]
        acts, servers = settings.tokens is not None, sorted(settings.servers)
        about = About(__version__, directories, settings.redact, settings.jaeger_url, request[WHO], acts, servers)
        return _json(about)

    async def _openapi(self, _: web.Request) -> web.StreamResponse:
        return _json(api.document())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # whoever watched has gone
            async with self._feed.watching() as events:
                async for name, data in events:
                    await response.write(f"event: {name}\ndata: {_text(data)}\n\n".encode())
        return response


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What was asked for wrongly, is not there, or cannot be read, in JSON."""
    try:
        return await handler(request)
    except ConfigError as error:
        return web.json_response({"error": str(error)}, status=409 if isinstance(error, Refused) else 400)
    except LookupError as error:
        return web.json_response({"error": str(error.args[0])}, status=404)
    except CommandFailed as error:
        return web.json_response({"error": str(error)}, status=503)
    except (ExtprocError, OSError) as error:
        if request.transport is None:  # whoever asked has gone
            raise
        log.warning("%s: %s", request.path, error)
        return web.json_response({"error": str(error)}, status=500)


def _words(request: web.Request) -> list[str]:
    """The filters of a request, as words of a command line."""
    words = words_of(request.query.get("q", ""))
    for name, value in request.query.items():
        if name not in _OWN:
            words.append("--failed" if name == "failed" and value in {"", "yes", "true"} else f"--{name}={value}")
    return words


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST:
        raise ConfigError(f"limit: expected a number from 1 to {MOST}, got {text!r}")
    return int(text)


async def _sent(request: web.Request, kind: type[T]) -> T:
    """What came along, as JSON of this type."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="expected content-type: application/json")
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"the body: {error}") from None


async def _answer(work: Awaitable[Any]) -> web.StreamResponse:
    return _json(await work)


def _json(value: Any) -> web.Response:
    return web.Response(text=_text(value), content_type="application/json")


def _text(value: Any) -> str:
    return json_line(msgspec.to_builtins(value))


def _files() -> dict[str, tuple[str, bytes]]:
    """The front end: each file with its type."""
    found = {}
    for each in (resources.files("extproc.page") / "static").iterdir():
        suffix = "." + each.name.rpartition(".")[2]
        if suffix in _KINDS:
            found[each.name] = (_KINDS[suffix], each.read_bytes())
    return found


def _static(kind: str, content: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, headers={"content-type": kind, "cache-control": "no-cache"})

    return answer


async def serve(settings: Settings, query: Query, ready: Ready) -> None:
    """Serve until cancelled. Raises OSError where the address cannot be had."""
    runner = web.AppRunner(Page(settings, query).application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        ready(host, port)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
