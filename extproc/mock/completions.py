"""`POST /v1/completions` as vLLM answers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from extproc.mock.answer import DONE, MOST_CHOICES, Context, frame, inputs, integer, texts
from extproc.mock.generation import BadRequestError, Json, Said, Wish, count_all, say


class CompletionAnswer:
    """The answer to one completion request; choice k of prompt i has the index i * n + k."""

    def __init__(self, body: Mapping[str, Any], context: Context) -> None:
        self._context = context
        self.stream = bool(body.get("stream"))
        options = body.get("stream_options") or {}
        if options and not self.stream:
            raise BadRequestError("Stream options can only be defined when `stream=True`.")
        self._include_usage = bool(options.get("include_usage"))
        prompts = inputs(body.get("prompt"), "prompt")
        wish = Wish(
            key=context.raw,
            prompt_tokens=sum(count_all(prompt) for prompt in prompts),
            # OpenAI's default here is 16.
            limit=integer(body, "max_tokens") or 16,
            stop=texts(body, "stop"),
            ignore_eos=bool(body.get("ignore_eos")),
        )
        self.prompt_tokens = wish.prompt_tokens
        each = min(integer(body, "n") or 1, MOST_CHOICES)
        self._said = [say(wish, context.seed, index) for index in range(each * len(prompts))]
        echoed = [prompt if isinstance(prompt, str) else "" for prompt in prompts for _ in range(each)]
        self._echo = echoed if body.get("echo") else [""] * len(echoed)

    @property
    def completion_tokens(self) -> int:
        return sum(len(said.tokens) for said in self._said)

    @property
    def steps(self) -> int:
        return max(len(said.tokens) for said in self._said)

    def whole(self) -> Json:
        choices = [
            _choice(index, self._echo[index] + said.text("content"), said) for index, said in enumerate(self._said)
        ]
        return {**self._head(), "choices": choices, "usage": self._usage()}

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for step in range(self.steps):
            wait = 1
            for index, said in enumerate(self._said):
                if step >= len(said.tokens):
                    continue
                text = (self._echo[index] if step == 0 else "") + said.tokens[step][1]
                ended = said if step == len(said.tokens) - 1 else None
                yield wait, frame({**self._head(), "choices": [_choice(index, text, ended)]})
                wait = 0
        if self._include_usage:
            yield 0, frame({**self._head(), "choices": [], "usage": self._usage()})
        yield 0, DONE

    def _head(self) -> dict[str, Json]:
        context = self._context
        return {
            "id": f"cmpl-{context.id}",
            "object": "text_completion",
            "created": context.created,
            "model": context.model,
        }

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": None,
        }


def _choice(index: int, text: str, ended: Said | None) -> Json:
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": ended.finish if ended else None,
        "stop_reason": ended.stop_sequence if ended else None,
    }
