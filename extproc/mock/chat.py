"""`POST /v1/chat/completions` as vLLM answers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from extproc.mock.answer import DONE, MOST_CHOICES, Context, frame, integer, json_schema, objects, texts, wanted_tool
from extproc.mock.generation import BadRequestError, Json, Said, Tool, Wish, count_all, say


class ChatAnswer:
    """The answer to one chat completion request."""

    def __init__(self, body: Mapping[str, Any], context: Context) -> None:
        messages = objects(body, "messages")
        if not messages:
            raise BadRequestError("messages must not be empty")
        self._context = context
        self.stream = bool(body.get("stream"))
        options = body.get("stream_options") or {}
        if options and not self.stream:
            raise BadRequestError("Stream options can only be defined when `stream=True`.")
        self._include_usage = bool(options.get("include_usage"))
        self._continuous_usage = self._include_usage and bool(options.get("continuous_usage_stats"))
        tools = [_tool(each) for each in objects(body, "tools")]
        choice = body.get("tool_choice")
        self._named = isinstance(choice, dict)
        template = body.get("chat_template_kwargs")
        wish = Wish(
            key=context.raw,
            prompt_tokens=count_all([message.get("content") for message in messages]) + 4 * len(messages),
            limit=integer(body, "max_completion_tokens", "max_tokens"),
            stop=texts(body, "stop"),
            ignore_eos=bool(body.get("ignore_eos")),
            reasoning="reasoning_effort" in body
            or (isinstance(template, dict) and bool(template.get("enable_thinking"))),
            schema=json_schema(body.get("response_format")),
            tool=wanted_tool(tools, choice, "required"),
        )
        self.prompt_tokens = wish.prompt_tokens
        self._said = [say(wish, context.seed, index) for index in range(min(integer(body, "n") or 1, MOST_CHOICES))]

    @property
    def completion_tokens(self) -> int:
        return sum(len(said.tokens) for said in self._said)

    @property
    def steps(self) -> int:
        return max(len(said.tokens) for said in self._said)

    def whole(self) -> Json:
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": self._message(said),
                    "logprobs": None,
                    "finish_reason": self._finish(said),
                    "stop_reason": said.stop_sequence,
                }
                for index, said in enumerate(self._said)
            ],
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self._usage(self.completion_tokens),
            "prompt_logprobs": None,
            "kv_transfer_params": None,
        }

    def frames(self) -> Iterator[tuple[int, bytes]]:
        # vLLM sends the role when the first output of the engine is there, so it costs the first token's time.
        wait, sent = 1, 0
        for index in range(len(self._said)):
            yield wait, self._chunk(index, {"role": "assistant", "content": ""}, sent)
            wait = 0
        for step in range(self.steps + 1):
            wait = 1 if 0 < step < self.steps else 0
            for index, said in enumerate(self._said):
                if step > len(said.tokens):
                    continue
                last = step == len(said.tokens)
                if last and said.finish == "length":
                    continue  # the finish reason went with the last token
                delta = {"content": ""} if last else _delta(said, step)
                sent += not last
                ends = last or (said.finish == "length" and step == len(said.tokens) - 1)
                yield wait, self._chunk(index, delta, sent, said if ends else None)
                wait = 0
        if self._include_usage:
            yield 0, frame({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(sent)})
        yield 0, DONE

    def _head(self, kind: str) -> dict[str, Json]:
        context = self._context
        return {"id": f"chatcmpl-{context.id}", "object": kind, "created": context.created, "model": context.model}

    def _chunk(self, index: int, delta: Json, sent: int, ended: Said | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if ended is not None:
            choice |= {"finish_reason": self._finish(ended), "stop_reason": ended.stop_sequence}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self._continuous_usage:
            chunk["usage"] = self._usage(sent)
        return frame(chunk)

    def _message(self, said: Said) -> Json:
        message: dict[str, Json] = {"role": "assistant", "content": said.text("content") or None}
        if said.text("reasoning"):
            message["reasoning"] = said.text("reasoning")
        if said.tool is not None:
            function = {"name": said.tool.name, "arguments": said.text("tool")}
            message["tool_calls"] = [{"id": said.call_id, "type": "function", "function": function}]
        return message

    def _finish(self, said: Said) -> str:
        if said.finish == "tool":
            # A named tool_choice ends with "stop" in vLLM, as in OpenAI's API.
            return "stop" if self._named else "tool_calls"
        return said.finish

    def _usage(self, completion_tokens: int) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": None,
        }


def _tool(value: Mapping[str, Any]) -> Tool:
    function = value.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequestError("each of tools needs a function with a name")
    schema = function.get("parameters")
    return Tool(function["name"], schema if isinstance(schema, dict) else {"type": "object"})


def _delta(said: Said, step: int) -> Json:
    part, text = said.tokens[step]
    if part != "tool":
        return {part: text}
    assert said.tool is not None
    call: dict[str, Json] = {"index": 0, "function": {"arguments": text}}
    if all(earlier != "tool" for earlier, _ in said.tokens[:step]):
        # Only a call's first fragment carries its id and its name.
        call |= {"id": said.call_id, "type": "function", "function": {"name": said.tool.name, "arguments": text}}
    return {"tool_calls": [call]}
