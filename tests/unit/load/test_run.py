"""A bounded load: what is sent, what is counted, and how it ends early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from extproc.load.run import Plan, Run

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
FINISH = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n'
WHOLE = {
    "id": "c",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
}


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that answers everything so."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def loaded(handler: Handler, *, path: str = "/v1/chat/completions", **plan: object) -> Run:
    """The run of a plan against such a server."""

    async def go() -> Run:
        async with server(handler) as url:
            settings = {"requests": 1, "concurrency": 1} | plan
            run = Run(Plan(url + path, **settings))  # type: ignore[arg-type]
            await run.go()
            return run

    return asyncio.run(go())


def streaming(*events: bytes) -> Handler:
    """A handler that streams these events."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream", "x-upstream": "10.0.0.7:8000"})
        await answer.prepare(request)
        for event in events:
            await answer.write(event)
        return answer

    return handle


async def whole(request: web.Request) -> web.StreamResponse:
    """An answer in one piece."""
    return web.json_response(WHOLE)


def test_a_streamed_answer_is_measured() -> None:
    """Its first token, its tokens by the server's count, the backend that Envoy names."""
    (result,) = loaded(streaming(CHUNK, FINISH, USAGE, DONE), stream=True).results
    assert (result.error, result.status, result.upstream, result.output_tokens) == (None, 200, "10.0.0.7:8000", 2)
    assert result.first_token_seconds is not None
    assert 0 < result.first_token_seconds <= result.seconds


def test_an_answer_in_one_piece_is_measured() -> None:
    """Its first token is its first byte."""
    (result,) = loaded(whole).results
    assert (result.error, result.output_tokens, result.upstream) == (None, 7, None)
    assert result.first_token_seconds is not None


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ((CHUNK, FINISH, DONE), None),
        ((CHUNK, ERROR, DONE), "error in the stream"),
        ((CHUNK,), "stream without its end"),
    ],
)
def test_what_is_an_error(events: tuple[bytes, ...], error: str | None) -> None:
    """A status alone does not make an answer good."""
    (result,) = loaded(streaming(*events), stream=True).results
    assert result.error == error


def test_a_status_is_an_error() -> None:
    """Named by its number."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, status=503)

    assert loaded(handle).results[0].error == "status 503"


def test_a_connection_that_breaks_is_an_error() -> None:
    """And the run goes on."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    results = loaded(handle, requests=3).results
    assert len(results) == 3
    assert all(result.error and result.status is None for result in results)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_sent(path: str, stream: bool) -> None:
    """The request of the API that the path names, with the headers of the plan."""
    seen: list[tuple[dict[str, object], str | None]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json(), request.headers.get("authorization")))
        return web.json_response(WHOLE)

    headers = {"authorization": "Bearer k"}
    loaded(handle, path=path, stream=stream, model="m", prompt="p", max_tokens=5, headers=headers)
    ((body, key),) = seen
    assert (body["model"], body["max_tokens"], key) == ("m", 5, "Bearer k")
    assert (body.get("prompt"), json.dumps(body.get("messages"))) == (
        ("p", "null") if path == "/v1/completions" else (None, '[{"role": "user", "content": "p"}]')
    )
    assert body.get("stream", False) is stream


def test_never_more_at_a_time_than_asked() -> None:
    """All are sent, and no more than `concurrency` are open together."""
    running = 0
    most = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return web.json_response(WHOLE)

    assert len(loaded(handle, requests=50, concurrency=4).results) == 50
    assert 1 <= most <= 4


def test_it_can_be_stopped() -> None:
    """What has ended is kept, what runs is cut off, nothing more is sent."""

    async def go() -> tuple[Run, int]:
        begun = 0
        hanging = asyncio.Event()

        async def handle(request: web.Request) -> web.StreamResponse:
            nonlocal begun
            begun += 1
            if begun > 3:
                hanging.set()
                await asyncio.Event().wait()
            return web.json_response(WHOLE)

        async with server(handle) as url:
            run = Run(Plan(url + "/v1/chat/completions", requests=100, concurrency=1))
            going = asyncio.create_task(run.go())
            await hanging.wait()
            run.stop()
            await going
            return run, begun

    run, begun = asyncio.run(go())
    assert (len(run.results), begun) == (3, 4)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://a/v1/chat/completions", "chat.completions"),
        ("http://a:1/x/v1/completions?a=b", "completions"),
        ("http://a/v1/embeddings", None),
        ("http://a", None),
    ],
)
def test_the_api_of_a_url(url: str, api: str | None) -> None:
    """By its path, as the recorder tells it."""
    assert Plan(url, 1, 1).api == api
