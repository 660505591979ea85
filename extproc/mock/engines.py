"""How the known engines name themselves, and what a client sees of each when it dies.

What is said here was seen on the versions named, or is read from their source; nothing in the recorder uses it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

Json = Any


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """One engine's words."""

    name: str
    version: str
    owner: str
    """`owned_by` of its models."""
    how: str
    """How it dies, if nothing else is asked for: as `dying.parse` takes it."""
    message: str
    error: Callable[[str, int], Json]
    """The body of an error of a message and a status."""
    in_stream: Callable[[str], Json] | None
    """The error in a stream that has begun; None: the stream breaks off."""
    done: bool
    """`[DONE]` after it."""
    plain_status: int = 500
    """What an answer in one piece has when the engine dies under it; 200: with `null` for a body."""
    about: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    """What it tells of itself, by path."""


def _nested(kind: str) -> Callable[[str, int], Json]:
    return lambda message, code: {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _flat(message: str, code: int) -> Json:
    return {"object": "error", "message": message, "type": "InternalServerError", "param": None, "code": code}


def _llama(message: str, code: int) -> Json:
    return {"error": {"code": code, "message": message, "type": "unavailable_error" if code == 503 else "server_error"}}


ENGINES: Final[Mapping[str, Engine]] = {
    each.name: each
    for each in (
        Engine(
            name="vllm",
            version="0.11.0",
            owner="vllm",
            how="frames",
            message="EngineCore encountered an issue. See stack trace (above) for the root cause.",
            error=_nested("Internal Server Error"),
            # Its frame says 400, as if the request were wrong.
            in_stream=lambda message: _nested("BadRequestError")(message, 400),
            done=True,
            about={"/version": {"version": "0.11.0"}},
        ),
        Engine(
            name="sglang",
            version="0.5.4",
            owner="sglang",
            # Its scheduler's parent gets a SIGQUIT, and kills the whole tree: nobody hears a word of it. An error under
            # one request begins so.
            how="kill",
            message="Internal server error: the request failed",
            error=_flat,
            in_stream=lambda message: {"error": _flat(message, 500)},
            done=True,
            about={
                "/get_server_info": {
                    "version": "0.5.4",
                    "model_path": "demo",
                    "tp_size": 1,
                    "disable_radix_cache": False,
                },
                "/get_model_info": {"model_path": "demo", "is_generation": True},
            },
        ),
        Engine(
            name="llama.cpp",
            version="b6915",
            owner="llamacpp",
            how="kill",  # an assertion or an exception that nobody catches: abort()
            message="Compute error.",
            error=_llama,
            in_stream=lambda message: _llama(message, 500),
            done=False,
            about={"/props": {"build_info": "b6915-5d8bb900b", "total_slots": 4, "model_path": "demo.gguf"}},
        ),
        Engine(
            name="tensorrt-llm",
            version="1.0.0",
            owner="tensorrt_llm",
            how="frames",
            message="Encountered an error in forwardAsync function",
            error=_flat,
            in_stream=None,
            done=False,
            # Its handlers raise SIGINT when the executor fails, and return nothing; streams break off.
            plain_status=200,
            about={"/version": {"version": "1.0.0"}},
        ),
    )
}


def frames(engine: Engine, path: str) -> bytes | None:
    """What a stream of an API gets last when the engine dies under it; None: it breaks off."""
    if engine.in_stream is None:
        return None
    if path == "/v1/messages":
        body = {"type": "error", "error": {"type": "internal_server_error", "message": engine.message}}
        return b"event: error\ndata: " + json.dumps(body).encode() + b"\n\n"
    done = b"data: [DONE]\n\n" if engine.done else b""
    return b"data: " + json.dumps(engine.in_stream(engine.message)).encode() + b"\n\n" + done
