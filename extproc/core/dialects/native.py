"""Servers' own forms of a completion, as they come on the paths of the OpenAI APIs: llama.cpp's and Ollama's.

llama.cpp sends `content` and, at last, `stop: true`; Ollama a `message` or a `response`, and `done: true`. Both count
their tokens under names of their own, in the last event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.core.dialects.answer import ResponseSummary, finish_reason_of, mapping
from extproc.core.dialects.content import message_texts, shows_something

LLAMA_CPP = ("tokens_evaluated", "tokens_predicted")
OLLAMA = ("prompt_eval_count", "eval_count")
TIMINGS = ("prompt_n", "predicted_n", "cache_n")
"""llama.cpp's measurements, which stand in its chat completions too."""

MAX_STATED = 8
"""Choices whose whole messages are remembered, to see a part from a repetition."""


def is_llama_cpp(body: Mapping[str, Any]) -> bool:
    """Whether it is an event or a document of llama.cpp's own `/completion`."""
    return isinstance(body.get("content"), str) and isinstance(body.get("stop"), bool)


def is_ollama(body: Mapping[str, Any]) -> bool:
    """Whether it is a line or a document of Ollama's own `/api/chat` or `/api/generate`."""
    return isinstance(body.get("done"), bool) and bool({"message", "response"} & body.keys())


def ollama_message(body: Mapping[str, Any]) -> dict[str, Any]:
    """What such a line says, as a message."""
    if isinstance(body.get("message"), dict):
        return mapping(body["message"])
    named = (("content", body.get("response")), ("thinking", body.get("thinking")))
    return {name: value for name, value in named if isinstance(value, str)}


def read(answer: ResponseSummary, body: Mapping[str, Any]) -> bool:
    """Read an event or a document without `choices`; whether there was output in it."""
    if is_llama_cpp(body):
        index = answer.choice(body.get("index"))
        if body["stop"]:
            answer.choice(index, _llama_cpp_reason(body))
            answer.done = True
            answer.use_for_want(body, LLAMA_CPP)
        return answer.count(body["content"])
    if is_ollama(body):
        message = ollama_message(body)
        answer.choice(0)
        if body["done"]:
            answer.choice(0, finish_reason_of(body.get("done_reason")) or "stop")
            answer.done = True
            answer.use_for_want(body, OLLAMA)
        return answer.count(*message_texts(message)) | shows_something(message)
    return False


def _llama_cpp_reason(body: Mapping[str, Any]) -> str:
    reason = finish_reason_of(body.get("stop_type"))
    if reason is not None:
        return reason
    return next((name for name in ("eos", "limit", "word") if body.get(f"stopped_{name}") is True), "stop")
