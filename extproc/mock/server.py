"""The demo backend's HTTP side: routes, pace, errors and metrics, on aiohttp.

Each frame of a stream is written on its own, when its token is due. Errors have vLLM's shapes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from extproc.mock.answer import Answer, Context
from extproc.mock.chat import ChatAnswer
from extproc.mock.completions import CompletionAnswer
from extproc.mock.dying import Broken, DeadError, EngineRequest, EngineRun, Plan
from extproc.mock.embeddings import EmbeddingAnswer
from extproc.mock.engines import ENGINES, Engine, frames
from extproc.mock.generation import BadRequestError, Json
from extproc.mock.messages import MessagesAnswer
from extproc.mock.responses import ResponsesAnswer
from extproc.mock.rules import Asked

_APIS: Final[Mapping[str, Callable[[Mapping[str, Any], Context], Answer]]] = {
    "/v1/chat/completions": ChatAnswer,
    "/v1/completions": CompletionAnswer,
    "/v1/embeddings": EmbeddingAnswer,
    "/v1/responses": ResponsesAnswer,
    "/v1/messages": MessagesAnswer,
}

_LARGEST_BODY: Final = 1 << 30
"""The limit is the gateway's business; a backend must not hide what the gateway lets through."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How the demo model behaves."""

    model: str = "demo"
    ttft_ms: float = 50.0
    tokens_per_second: float = 50.0
    """0: as fast as the network takes them."""
    seed: int = 0
    strict: bool = False
    """Refuse models other than `model` with 404, as a real server does."""
    engine: str = "vllm"
    """Whose words it uses when it dies: a name of `ENGINES`."""


class Backend:
    """One demo LLM server."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self.settings = settings
        self._engine: Engine = ENGINES[settings.engine]
        self._run = EngineRun(plan)
        self._started = time.time()
        self._numbers = itertools.count()
        self._running = 0
        self._tokens: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=_LARGEST_BODY)
        for path in _APIS:
            application.router.add_post(path, self._answer)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._metrics)
        for path in self._engine.about:
            application.router.add_get(path, self._about)
        return application

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._run.broken in (Broken.ERROR, Broken.UNAVAILABLE) else 200)

    async def _about(self, request: web.Request) -> web.Response:
        return web.json_response(self._engine.about[request.path])

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": self.settings.model,
            "object": "model",
            "created": int(self._started),
            "owned_by": self._engine.owner,
            "root": self.settings.model,
            "parent": None,
            "max_model_len": 131_072,
            "permission": [],
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _metrics(self, _: web.Request) -> web.Response:
        label = f'model_name="{self.settings.model}"'
        lines = [
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started:.3f}",
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {self._running - self._run.waiting}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{{{label}}} {self._run.waiting}",
            "# TYPE vllm:prompt_tokens_total counter",
            f"vllm:prompt_tokens_total{{{label}}} {self._tokens['prompt']}",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total{{{label}}} {self._tokens['generation']}",
            "# TYPE vllm:request_success_total counter",
        ]
        for reason in ("done", "abort"):
            total = self._finished[reason]
            lines.append(f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {total}')
        text = "\n".join(lines) + "\n"
        return web.Response(body=text.encode(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body, context = self._parsed(request, raw)
        except BadRequestError as error:
            return _refusal(request.path, 400, str(error))
        except LookupError as error:
            return _refusal(request.path, 404, str(error.args[0]))
        try:
            answer = _APIS[request.path](body, context)
        except BadRequestError as error:
            answer = _Refused(str(error), bool(body.get("stream")))
        self._running += 1
        self._tokens["prompt"] += answer.prompt_tokens
        ended = "abort"
        asked = Asked(request.path, raw, body, answer.prompt_tokens, context.id)
        try:
            with self._run.request(asked) as one:
                response = await self._send(request, answer, one)
                ended = "done"
        except ConnectionResetError:
            # A client that has left is normal: the generation ends there, as the real server's does.
            response = web.Response()
        finally:
            self._running -= 1
            self._finished[ended] += 1
        return response

    def _parsed(self, request: web.Request, raw: bytes) -> tuple[Mapping[str, Any], Context]:
        try:
            body = json.loads(raw)
        except RecursionError:
            raise BadRequestError("JSON nested too deeply") from None
        except ValueError as error:
            raise BadRequestError(f"JSON decode error: {error}") from None
        if not isinstance(body, dict):
            raise BadRequestError("Input should be a valid dictionary")
        model = body.get("model") or self.settings.model
        if not isinstance(model, str):
            raise BadRequestError("model must be a string")
        if self.settings.strict and model != self.settings.model:
            raise LookupError(f"The model `{model}` does not exist.")
        settings = self.settings
        id = request.headers.get("x-request-id") or hashlib.sha256(raw + b"%d" % next(self._numbers)).hexdigest()[:32]
        return body, Context(raw, model, settings.seed, int(time.time()), id)

    async def _send(self, request: web.Request, answer: Answer, one: EngineRequest) -> web.StreamResponse:
        try:
            await one.turn()
            if isinstance(answer, _Refused):
                return _refusal(request.path, 400, answer.message)
            pace = _Pace(self.settings, one)
            if answer.stream:
                return await self._stream(request, answer, pace)
            await pace.tokens(answer.steps)
            self._tokens["generation"] += answer.completion_tokens
            return web.json_response(answer.whole())
        except DeadError:
            await one.last_words()
            return await self._last_words(request, answer, one)

    async def _stream(self, request: web.Request, answer: Answer, pace: _Pace) -> web.StreamResponse:
        response = await _begun_stream(request)
        try:
            for tokens, data in answer.frames():
                await pace.tokens(tokens)
                await response.write(data)
                self._tokens["generation"] += tokens
        except DeadError:
            await pace.of.last_words()
            await self._end_stream(request, response)
            return response
        await response.write_eof()
        return response

    async def _last_words(self, request: web.Request, answer: Answer, one: EngineRequest) -> web.StreamResponse:
        """What a request gets that the dead engine had given nothing yet."""
        engine = self._engine
        if self._run.broken is Broken.UNAVAILABLE:
            return web.json_response(engine.error(engine.message, 503), status=503)
        if answer.stream and self._run.hears_in_stream(one):
            response = await _begun_stream(request)
            await self._end_stream(request, response)
            return response
        if engine.plain_status == 200 and self._run.broken is not None:
            return web.json_response(None)
        return web.json_response(engine.error(engine.message, 500), status=500)

    async def _end_stream(self, request: web.Request, response: web.StreamResponse) -> None:
        last = None if self._run.broken is Broken.UNAVAILABLE else frames(self._engine, request.path)
        if last is not None:
            await response.write(last)
            await response.write_eof()
        elif request.transport is not None:
            request.transport.abort()


@dataclasses.dataclass(frozen=True, slots=True)
class _Refused(Answer):
    """In place of an answer to a request that is wrong: an engine may die of it before it is refused."""

    message: str
    stream: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0

    def whole(self) -> Json:
        raise AssertionError(self.message)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        raise AssertionError(self.message)


async def _begun_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


class _Pace:
    """The times at which tokens are due, counted from the request: what is late is not made up for by pauses."""

    def __init__(self, settings: Settings, one: EngineRequest) -> None:
        self.of = one
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + settings.ttft_ms / 1000
        self._each = 1 / settings.tokens_per_second if settings.tokens_per_second else 0.0
        self._first = True

    async def tokens(self, number: int) -> None:
        if number == 0:
            return
        self._due += self._each * (number - self._first)
        self._first = False
        await self.of.tokens(number, self._due - self._loop.time())


def _refusal(path: str, status: int, message: str) -> web.Response:
    if path == "/v1/messages":
        kind = "not_found_error" if status == 404 else "invalid_request_error"
        body: Json = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        kind = "NotFoundError" if status == 404 else "BadRequestError"
        body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return web.json_response(body, status=status)


async def serve(settings: Settings, plan: Plan, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Serve until cancelled, or the engine's death. `ready` is called with the address once requests are accepted."""
    # A gateway keeps idle connections for less than this, so that none is closed under a request.
    runner = web.AppRunner(
        Backend(settings, plan).application(), access_log=None, keepalive_timeout=30.0, handler_cancellation=True
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=1.0)
        await site.start()
        bound = runner.addresses[0]
        ready(bound[0], bound[1])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
