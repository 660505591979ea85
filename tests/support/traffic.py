"""A mixed load as LLM servers get it, short answers and streams of some seconds, and the servers behind it.

    with Servers(3) as servers, Recipe(..., backends={8001: servers.ports[0]}) as stack, Traffic(stack.port) as traffic:
        ...                                          # what is done to the stack under load
        assert traffic.end() == []                   # each request that was not answered whole, and why

Servers and clients know what each answer has to be, byte by byte: it follows from the request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from support.stack import PATIENCE_SECONDS, eventually

TOKEN_SECONDS: Final = 0.1
PATH: Final = "/v1/chat/completions"


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_SECONDS)

    def close(self) -> None:
        self.run(_ended())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _ended() -> None:
    """End what still runs on this loop, such as connections that are kept open."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Servers:
    """Several LLM servers. The server of a port says unhealthy while the port is in `unhealthy`."""

    def __init__(self, count: int) -> None:
        self.ports: list[int] = []
        self.unhealthy: set[int] = set()
        self.running: Counter[int] = Counter()
        """The answers under way at each port."""
        self._count = count

    def __enter__(self) -> Self:
        self._loop = _Loop()
        self._loop.run(self._start())
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        for _ in range(self._count):
            site = web.TCPSite(self._runner, "127.0.0.1", 0)
            await site.start()
        self.ports = [address[1] for address in self._runner.addresses]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if _port(request) in self.unhealthy else 200)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        port = _port(request)
        self.running[port] += 1
        try:
            return await self._told(request)
        finally:
            self.running[port] -= 1

    async def _told(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if not asked["stream"]:
            return web.Response(body=whole(asked), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events(asked):
            await response.write(event)
            await asyncio.sleep(TOKEN_SECONDS)
        await response.write_eof()
        return response


def _port(request: web.Request) -> int:
    """The port of the server that is asked; while its client is there."""
    assert request.transport is not None
    return int(request.transport.get_extra_info("sockname")[1])


def question(number: int, tokens: int = 0) -> dict[str, Any]:
    """A request; with `tokens` for a stream of so many."""
    return {"model": "demo", "user": str(number), "stream": tokens > 0, "max_tokens": tokens, "messages": []}


def whole(asked: dict[str, Any]) -> bytes:
    """The answer to a request that is not for a stream."""
    message = {"role": "assistant", "content": f"You are {asked['user']}."}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice]}).encode()


def events(asked: dict[str, Any]) -> list[bytes]:
    """The events of a stream."""
    deltas: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": f"{asked['user']} {number}"}, "finish_reason": None}]}
        for number in range(asked["max_tokens"])
    ]
    deltas.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return [*(b"data: %b\n\n" % json.dumps(delta).encode() for delta in deltas), b"data: [DONE]\n\n"]


class Traffic:
    """So many requests a second, and of them so many for streams of one to three seconds, until `end`.

    Connections are kept, unless `keep` is false: then each request has its own.
    """

    def __init__(self, port: int, rate: float = 200.0, streams: float = 0.1, *, keep: bool = True) -> None:
        self.finished = 0
        self.failures: list[str] = []
        self.running = 0
        self._url = f"http://127.0.0.1:{port}{PATH}"
        self._pause = 1 / rate
        self._share = streams
        self._keep = keep
        self._ending = asyncio.Event()
        self._random = random.Random(0)

    def __enter__(self) -> Self:
        self._loop = _Loop()
        self._all = asyncio.run_coroutine_threadsafe(self._run(), self._loop.loop)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.end()
        finally:
            self._all.cancel()
            self._loop.close()

    def end(self) -> list[str]:
        """Send no more, and wait for the answers that are under way; the failures."""
        self._loop.loop.call_soon_threadsafe(self._ending.set)
        self._all.result(PATIENCE_SECONDS)
        return self.failures

    def goes_on(self, requests: int = 20) -> None:
        """Wait until so many more have been answered."""
        until = self.finished + requests
        eventually(lambda: self.finished >= until, f"{requests} more answers; failures {self.failures[:3]}")

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with (
            aiohttp.ClientSession(connector=self._connector(), timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            began = asyncio.get_running_loop().time()
            for number in itertools.count(1):
                # By the clock, so that a machine that was busy makes up for it.
                pause = began + number * self._pause - asyncio.get_running_loop().time()
                if pause > 0:
                    await asyncio.sleep(pause)
                if self._ending.is_set():
                    return
                streams = self._random.random() < self._share
                tokens = self._random.randint(round(1 / TOKEN_SECONDS), round(3 / TOKEN_SECONDS)) if streams else 0
                group.create_task(self._ask(session, question(number, tokens)))

    def _connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, force_close=not self._keep)

    async def _ask(self, session: aiohttp.ClientSession, asked: dict[str, Any]) -> None:
        expected = b"".join(events(asked)) if asked["stream"] else whole(asked)
        self.running += 1
        try:
            async with session.post(self._url, json=asked) as response:
                body = await response.read()
                if response.status != 200 or body != expected:
                    self.failures.append(f"{asked['user']}: {response.status} {dict(response.headers)} {body[-200:]!r}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(f"{asked['user']}: {error!r}")
        finally:
            self.running -= 1
            self.finished += 1
