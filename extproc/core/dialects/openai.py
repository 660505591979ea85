"""The responses of the OpenAI APIs: chat completions, completions, embeddings and responses.

A chunk that has only the usual members with the usual types is decoded into small structs, which costs a third of a
full decode. It is refused for any other member, so whatever else there is in a chunk is read from a full decode; both
give the same answer for every input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from extproc.core import jsondoc
from extproc.core.dialects import native
from extproc.core.dialects.answer import MAX_CHOICES, ResponseSummary, finish_reason_of, mapping, objects
from extproc.core.dialects.content import json_text, message_texts, places, shows_something, texts
from extproc.core.dialects.errors import is_error, is_error_name, is_failed_reason, says_something

DONE = b"[DONE]"

_REFUSED = (msgspec.MsgspecError, ValueError, RecursionError)


class _Usual(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """No other members than those named. What is only passed over is `Any`, to be refused where it is no JSON."""


class _Function(_Usual):
    arguments: str | None = None
    name: str | None = None


class _ToolCall(_Usual):
    function: _Function | None = None
    index: int | None = None
    id: str | None = None
    type: str | None = None


class _Words(_Usual):
    """What a model says, in a piece or whole."""

    content: str | None = None
    role: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _AnyChoice(_Usual):
    index: int | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = None
    matched_stop: Any = None
    native_finish_reason: Any = None
    token_ids: Any = None
    content_filter_results: Any = None


class _AnyAnswer(_Usual):
    id: str | None = None
    created: Any = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    system_fingerprint: Any = None
    service_tier: Any = None
    provider: Any = None
    prompt_token_ids: Any = None
    prompt_logprobs: Any = None


class _Delta(_Words):
    function_call: _Function | None = None


class _Choice(_AnyChoice):
    delta: _Delta | None = None
    text: str | None = None
    prompt_token_ids: Any = None
    prompt_logprobs: Any = None


class _Chunk(_AnyAnswer, kw_only=True):
    choices: list[_Choice]
    object: Literal["chat.completion.chunk", "chat.completion", "text_completion"] | None = None
    obfuscation: Any = None


class _Message(_Words):
    function_call: None = None
    annotations: Any = None
    audio: None = None


class _WholeChoice(_AnyChoice, kw_only=True):
    message: _Message


class _Whole(_AnyAnswer, kw_only=True):
    """A whole answer."""

    choices: list[_WholeChoice]
    object: Literal["chat.completion"] | None = None
    kv_transfer_params: Any = None


_chunk = msgspec.json.Decoder(_Chunk)
_whole = msgspec.json.Decoder(_Whole)
_spoken = frozenset({"message", "delta", "text"})


class Chat:
    """Chat completions and completions: `choices` with deltas, messages or texts, and `[DONE]` at the end."""

    content = frozenset({"choices"})

    def lines(self, answer: ResponseSummary, lines: bytes) -> bool | None:
        done = lines.endswith(DONE) and (len(lines) == len(DONE) or lines.endswith(b"\n" + DONE))
        try:
            chunks = _chunk.decode_lines(lines[: -len(DONE)] if done else lines)
        except _REFUSED:
            return None
        token = False
        for chunk in chunks:
            token |= self._add(answer, chunk)
        answer.done |= done
        return token

    def event(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        if data == DONE:
            answer.done = True
            return False
        try:
            return self._add(answer, _chunk.decode(data))
        except _REFUSED:
            return self.event_in_full(answer, name, data)

    def event_in_full(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        """The same, believing no type."""
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        return self._read(answer, body, whole=False)

    def usual_document(self, answer: ResponseSummary, body: bytes) -> bool:
        if not jsondoc.is_simple(body):
            return False
        try:
            whole = _whole.decode(body)
        except _REFUSED:
            return False
        indices = [position if each.index is None else each.index for position, each in enumerate(whole.choices)]
        if any(not 0 <= index < MAX_CHOICES for index in indices):
            return False
        if len(set(indices)) < len(indices):
            indices = list(range(len(indices)))
        for index, choice in zip(indices, whole.choices, strict=True):
            answer.choice(index, choice.finish_reason)
            message = choice.message
            answer.count(message.content, message.reasoning or message.reasoning_content, message.refusal)
            answer.count(*[call.function.arguments for call in message.tool_calls or () if call.function])
        answer.identify(whole.id, whole.model)
        answer.use(whole.usage)
        return True

    def document(self, answer: ResponseSummary, body: Mapping[str, Any]) -> None:
        self._read(answer, body, whole=True)
        choices = body.get("choices")
        if choices is not None and not (
            isinstance(choices, list) and all(_spoken & choice.keys() for choice in objects(choices))
        ):
            # Too long to be held: what it says was not counted.
            answer.output_chars = None

    def is_whole(self, answer: ResponseSummary) -> bool:
        return answer.done or answer.is_finished

    def _add(self, answer: ResponseSummary, chunk: _Chunk) -> bool:
        token = False
        for position, choice in enumerate(chunk.choices):
            index = answer.choice(choice.index, choice.finish_reason, position)
            said = False
            delta = choice.delta
            if delta is not None:
                if delta.content:
                    said = answer.count(delta.content)
                if delta.reasoning or delta.reasoning_content or delta.refusal:
                    said |= answer.count(delta.reasoning or delta.reasoning_content, delta.refusal)
                if delta.tool_calls:
                    said = True
                    answer.count(*[call.function.arguments for call in delta.tool_calls if call.function])
                if delta.function_call is not None:
                    said = True
                    answer.count(delta.function_call.arguments)
            if not said and choice.text:
                said = answer.count(choice.text)
            if said:
                token = True
                answer.spoken.add(index)
        if answer.response_id is None or answer.response_model is None:
            answer.identify(chunk.id, chunk.model)
        if chunk.usage is not None:
            answer.use(chunk.usage)
        return token

    def _read(self, answer: ResponseSummary, body: Mapping[str, Any], *, whole: bool) -> bool:
        """The same from a fully decoded chunk or body."""
        if is_error(body):
            answer.fail(body)
        token = False
        choices = objects(body.get("choices"))
        for choice, index in zip(choices, places(choices, whole=whole), strict=True):
            token |= _read_choice(answer, choice, index)
        if "choices" not in body:
            token |= native.read(answer, body)
        answer.identify(body.get("id"), body.get("model"))
        groq = mapping(body.get("x_groq"))
        if says_something(groq.get("error")):
            answer.fail({"error": groq["error"]})
        answer.use(groq.get("usage"))
        answer.use(body.get("usage"))
        answer.use_for_want(mapping(body.get("timings")), native.TIMINGS)
        return token


def _read_choice(answer: ResponseSummary, choice: Mapping[str, Any], index: int) -> bool:
    if says_something(choice.get("error")):
        answer.fail({"error": choice["error"]})
    index = answer.choice(index, choice.get("finish_reason"))
    answer.use(choice.get("usage"))
    message = mapping(choice.get("message"))
    answer.use(message.get("usage"))
    said = _count(answer, mapping(choice.get("delta")))
    if not said and message:
        if index in answer.spoken:
            return False  # the whole of what came in parts, once more
        return _count_message(answer, index, message)
    if not said:
        said = answer.count(choice.get("text"))
    if said:
        answer.spoken.add(index)
    return said


def _count(answer: ResponseSummary, message: Mapping[str, Any]) -> bool:
    return answer.count(*message_texts(message)) | shows_something(message)


def _count_message(answer: ResponseSummary, index: int, message: Mapping[str, Any]) -> bool:
    """A message in place of deltas: the whole, the next part, or all that there is so far."""
    said = "".join(message_texts(message))
    before = answer.stated.get(index, "")
    if len(answer.stated) < native.MAX_STATED or index in answer.stated:
        answer.stated[index] = said
    if before and said.startswith(before):
        return answer.count(said[len(before) :])
    return answer.count(said) | shows_something(message)


class Embeddings:
    """Embeddings: usage and model; the vectors are never looked at."""

    content = frozenset({"data"})

    def lines(self, answer: ResponseSummary, lines: bytes) -> bool | None:
        return None

    def event(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        if data == DONE:
            return False
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        self.document(answer, body)
        return False

    def usual_document(self, answer: ResponseSummary, body: bytes) -> bool:
        return False

    def document(self, answer: ResponseSummary, body: Mapping[str, Any]) -> None:
        answer.output_chars = None
        answer.identify(body.get("id"), body.get("model"))
        answer.use(body.get("usage"))
        answer.use_for_want(body, native.OLLAMA)
        if is_error(body):
            answer.fail(body)

    def is_whole(self, answer: ResponseSummary) -> bool:
        return True


class _ResponseDelta(_Usual):
    type: str
    delta: str
    item_id: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    sequence_number: Any = None
    logprobs: Any = None
    obfuscation: Any = None


_response_delta = msgspec.json.Decoder(_ResponseDelta)
_NOT_CHARACTERS = ("response.audio.delta", "response.output_audio.delta")
TERMINAL = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
    "response.done": "completed",
}
"""The events that end a response, each with the status that it stands for where the response has none."""

_UNFINISHED = frozenset({"in_progress", "queued"})
_CALLS = ("function_call", "custom_tool_call", "mcp_call")


class Responses:
    """The Responses API: typed events; the terminal one carries the whole response and its usage."""

    content = frozenset({"output"})

    def lines(self, answer: ResponseSummary, lines: bytes) -> bool | None:
        return None

    def event(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        if data == DONE:
            answer.done = True
            return False
        try:
            event = _response_delta.decode(data)
        except _REFUSED:
            return self.event_in_full(answer, name, data)
        if event.type.endswith(".delta") and not is_error_name(event.type):
            return event.type not in _NOT_CHARACTERS and answer.count(event.delta)
        return self.event_in_full(answer, name, data)

    def event_in_full(self, answer: ResponseSummary, name: str, data: bytes) -> bool:
        """The same, believing no type."""
        body = jsondoc.decode(data)
        if not isinstance(body, dict):
            raise jsondoc.Malformed("not an object", 0)
        return self._read(answer, name, body)

    def usual_document(self, answer: ResponseSummary, body: bytes) -> bool:
        return False

    def document(self, answer: ResponseSummary, body: Mapping[str, Any]) -> None:
        self._read_response(answer, body, None)

    def is_whole(self, answer: ResponseSummary) -> bool:
        return answer.done

    def _read(self, answer: ResponseSummary, name: str, body: dict[str, Any]) -> bool:
        kind = body.get("type", name)
        if not isinstance(kind, str):
            kind = name
        if kind in TERMINAL:
            self._read_response(answer, mapping(body.get("response")), TERMINAL[kind])
            answer.use(body.get("usage"))
            answer.done = True
            return False
        if body.get("object") == "response" or ("output" in body and not kind.startswith("response.")):
            self._read_response(answer, body, None)
            answer.done |= answer.is_finished
            return bool(answer.output_chars)
        response = mapping(body.get("response"))
        answer.identify(response.get("id"), response.get("model"))
        answer.use(response.get("usage"))
        answer.use(body.get("usage"))
        if is_error(body):
            answer.fail(body)
        elif says_something(response.get("error")):
            answer.fail({"error": response["error"]})
        if kind.endswith(".delta") and kind not in _NOT_CHARACTERS:
            return answer.count(body.get("delta"))
        return kind == "response.output_item.added" and mapping(body.get("item")).get("type") in _CALLS

    def _read_response(self, answer: ResponseSummary, body: Mapping[str, Any], ended: str | None) -> None:
        """A whole response; `ended` is the status by the event that brought it, if one did."""
        answer.identify(body.get("id"), body.get("model"))
        answer.use(body.get("usage"))
        status = finish_reason_of(body.get("status"))
        if status in _UNFINISHED and ended is not None:
            status = None
        if says_something(body.get("error")):
            answer.fail({"error": body["error"]})
        elif is_error(body):
            answer.fail(body)
        elif is_failed_reason(status or ended):
            answer.fail({})
        if status not in _UNFINISHED and (status or ended):
            reason = finish_reason_of(mapping(body.get("incomplete_details")).get("reason"))
            answer.choice(0, reason or status or ended)
        output = body.get("output")
        if isinstance(output, list):
            if answer.output_chars == 0:
                _count_output(answer, output)
        elif output is not None:
            answer.output_chars = None


def _count_output(answer: ResponseSummary, output: list[Any]) -> None:
    for item in objects(output):
        answer.count(json_text(item.get("arguments")), json_text(item.get("input")), item.get("code"))
        answer.count(*texts(item.get("content")), *texts(item.get("summary")))
