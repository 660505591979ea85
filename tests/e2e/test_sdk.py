"""The official client packages through the whole stack: what they saw is what is recorded."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from support.clients import AsyncWatching, Seen, Watching
from support.commands import run
from support.exchanges import present
from support.stack import RunningStack

from extproc.history import bodies
from extproc.history.join import Exchange

HELLO: Any = [{"role": "user", "content": "Tell me about the runway, and spell naïve \N{CRAB}"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
def watching() -> Watching:
    """What a client package and the network say to each other."""
    return Watching()


@pytest.fixture
def client(demo_stack: RunningStack, watching: Watching) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    http_client = openai.DefaultHttpxClient(transport=watching)
    with openai.OpenAI(base_url=f"{demo_stack.url}/v1", api_key="sk-canary", http_client=http_client) as client:
        yield client


@pytest.fixture
def claude(demo_stack: RunningStack, watching: Watching) -> Iterator[anthropic.Anthropic]:
    """Anthropic's own client."""
    http_client = anthropic.DefaultHttpxClient(transport=watching)
    with anthropic.Anthropic(base_url=demo_stack.url, api_key="sk-canary", http_client=http_client) as client:
        yield client


def recorded(stack: RunningStack, seen: Seen) -> Exchange:
    """The record of what a client saw, its bytes compared both ways."""
    exchange = stack.exchange(seen.id)
    assert exchange.class_ == "ok"  # the SDK may close the connection behind [DONE], before the end
    assert exchange.status == seen.status
    sent, received = present(exchange.request), present(exchange.response)
    for direction, passed, data in (("request", sent, seen.request), ("response", received, bytes(seen.response))):
        assert (passed.bytes, passed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert bodies.whole(exchange, direction) == data
    assert "sk-canary" not in str(exchange.members())
    return exchange


def output(stack: RunningStack, exchange: Exchange) -> list[dict[str, Any]]:
    """The assembled answer, as `extproc show --json` has it."""
    shown = run("show", exchange.id, "--json", "--data-dir", stack.data_dir, cwd=stack.directory)
    assert shown.returncode == 0, shown.stderr
    answer: list[dict[str, Any]] = json.loads(shown.stdout)["llm"]["output"]
    return answer


def test_models(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """A GET without a body is an exchange too, of no API that we read."""
    assert [model.id for model in client.models.list()] == ["demo"]
    exchange = recorded(demo_stack, watching.seen[0])
    assert exchange.path == "/v1/models"
    assert present(exchange.request).ended_by == "headers"
    assert exchange.llm is None


def test_chat(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """A chat completion with two choices: usage, finish reasons and text agree."""
    answer = client.chat.completions.create(model="demo", messages=HELLO, n=2, max_tokens=9, temperature=0.5)
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert llm.api == "chat.completions"
    assert (llm.model, llm.response_model, llm.response_id) == ("demo", "demo", answer.id)
    assert present(llm.params)["temperature"] == 0.5
    assert llm.finish_reasons == [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert answer.usage is not None
    assert answer.usage.to_dict().items() <= present(llm.usage).items()
    assert [each["content"] for each in messages_of(output(demo_stack, exchange))] == [
        choice.message.content for choice in answer.choices
    ]


def messages_of(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages among assembled choices."""
    return [each.get("message", each) for each in outputs]


def test_chat_stream(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """A streamed one: the usage of the last frame, and the text put together again."""
    stream = client.chat.completions.create(
        model="demo", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, finish_reasons, usage = ["", ""], ["", ""], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish_reasons[choice.index] = choice.finish_reason or finish_reasons[choice.index]
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert usage is not None
    assert (llm.stream, llm.finish_reasons) == (True, finish_reasons)
    assert present(llm.usage)["completion_tokens"] == usage.completion_tokens
    assert present(llm.usage)["prompt_tokens"] == usage.prompt_tokens
    assert llm.output_chars == sum(len(text) for text in texts)
    assert present(llm.ttft_ms) > 0
    assert [each["content"] for each in messages_of(output(demo_stack, exchange))] == texts


def test_chat_stream_with_tool_calls(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """Fragmented tool calls end up as the client package assembles them."""
    with client.chat.completions.stream(
        model="demo", messages=HELLO, tools=[TOOL], tool_choice="required", reasoning_effort="low"
    ) as stream:
        stream.until_done()
        message = stream.get_final_completion().choices[0].message
    exchange = recorded(demo_stack, watching.seen[0])
    assert present(exchange.llm).finish_reasons == ["tool_calls"]
    assert message.tool_calls is not None
    (call,) = messages_of(output(demo_stack, exchange))[0]["tool_calls"]
    assert call["id"] == message.tool_calls[0].id
    assert call["function"]["name"] == "weather"
    assert call["function"]["arguments"] == message.tool_calls[0].function.arguments


@pytest.mark.parametrize("stream", [False, True])
def test_completions(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching, stream: bool) -> None:
    """The older completions API, streamed and not."""
    if stream:
        chunks = list(client.completions.create(model="demo", prompt="The wind", max_tokens=7, stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks)
    else:
        text = client.completions.create(model="demo", prompt="The wind", max_tokens=7).choices[0].text
    exchange = recorded(demo_stack, watching.seen[0])
    assert present(exchange.llm).api == "completions"
    assert present(exchange.llm).finish_reasons == ["length"]
    assert present(exchange.llm).output_chars == len(text)
    assert output(demo_stack, exchange)[0]["text"] == text


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching, encoding_format: Any) -> None:
    """Vectors as numbers and as base64."""
    inputs = ["a quiet runway"] * 50
    answer = client.embeddings.create(model="demo", input=inputs, encoding_format=encoding_format)
    exchange = recorded(demo_stack, watching.seen[0])
    assert len(answer.data) == len(inputs)
    assert present(exchange.llm).api == "embeddings"
    assert present(present(exchange.llm).usage)["prompt_tokens"] == answer.usage.prompt_tokens


def test_responses(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """The Responses API, as a whole."""
    answer = client.responses.create(model="demo", input="Where is the tower?", instructions="Be brief")
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert (llm.api, llm.response_id) == ("responses", answer.id)
    assert answer.usage is not None
    assert present(llm.usage)["output_tokens"] == answer.usage.output_tokens
    assert llm.output_chars == len(answer.output_text)
    assert answer.output_text in str(output(demo_stack, exchange))


def test_responses_stream(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """The Responses API as typed events, which has no [DONE]."""
    with client.responses.stream(model="demo", input="Where is the tower?") as stream:
        stream.until_done()
        answer = stream.get_final_response()
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert (llm.response_id, llm.stream) == (answer.id, True)
    assert answer.usage is not None
    assert present(llm.usage)["output_tokens"] == answer.usage.output_tokens
    assert answer.output_text in str(output(demo_stack, exchange))


def test_messages(demo_stack: RunningStack, claude: anthropic.Anthropic, watching: Watching) -> None:
    """Anthropic's package, as a whole."""
    answer = claude.messages.create(model="demo", max_tokens=300, messages=HELLO)
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert (llm.api, llm.response_id) == ("messages", answer.id)
    assert llm.finish_reasons == [answer.stop_reason] == ["end_turn"]
    assert present(llm.usage)["output_tokens"] == answer.usage.output_tokens
    assert answer.content[0].type == "text"
    assert answer.content[0].text in str(output(demo_stack, exchange))


def test_messages_stream(demo_stack: RunningStack, claude: anthropic.Anthropic, watching: Watching) -> None:
    """Anthropic's package as a stream with thinking and a tool call: usage of start and delta merged."""
    tool: Any = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
    with claude.messages.stream(
        model="demo",
        max_tokens=3000,
        messages=HELLO,
        tools=[tool],
        tool_choice={"type": "any"},
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        answer = stream.get_final_message()
    exchange = recorded(demo_stack, watching.seen[0])
    llm = present(exchange.llm)
    assert llm.finish_reasons == [answer.stop_reason] == ["tool_use"]
    assert present(llm.usage)["input_tokens"] == answer.usage.input_tokens
    assert present(llm.usage)["output_tokens"] == answer.usage.output_tokens
    assert [block.type for block in answer.content] == ["thinking", "tool_use"]
    assert "weather" in str(output(demo_stack, exchange))


def test_many_at_once(demo_stack: RunningStack) -> None:
    """The asynchronous client, half of its requests streamed: each has one record, and each the right one."""
    transport = AsyncWatching()

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        messages: Any = [{"role": "user", "content": f"question {number}"}]
        if number % 2:
            async for _ in await client.chat.completions.create(model="demo", messages=messages, stream=True):
                pass
        else:
            await client.chat.completions.create(model="demo", messages=messages)

    async def main() -> None:
        http_client = openai.DefaultAsyncHttpxClient(transport=transport)
        url = f"{demo_stack.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-canary", http_client=http_client) as client:
            await asyncio.gather(*(ask(client, number) for number in range(40)))

    asyncio.run(main())
    assert len({seen.id for seen in transport.seen}) == 40
    for seen in transport.seen:
        recorded(demo_stack, seen)


def test_error(demo_stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """A refusal of the backend is recorded as one, with its error's type."""
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=[])
    exchange = demo_stack.exchange(watching.seen[0].id)
    assert (exchange.status, exchange.outcome) == (400, "upstream_error_status")
    assert present(present(exchange.llm).error).type == "BadRequestError"
