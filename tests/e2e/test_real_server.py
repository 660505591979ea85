"""A model server that nobody here wrote, with its own streaming, tools, grammars and oddities, asked by the official
clients through the whole stack: what they got is what the record says."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from support.clients import AsyncWatching, Seen, Watching
from support.commands import invoke
from support.exchanges import present
from support.llama import MODEL, LlamaServer
from support.stack import RunningStack, eventually

from extproc.core.joined import Error
from extproc.export.jsonl import with_bodies
from extproc.history import bodies
from extproc.history.join import Exchange
from extproc.incidents import backends, evidence
from extproc.incidents.prober import Prober

HELLO: Any = [{"role": "user", "content": "Tell me of the wind, and spell naïve \N{CRAB}"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
RESPONSES_TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA}
MESSAGES_TOOL: Any = {"name": "weather", "input_schema": SCHEMA}
THOUGHT = 'root ::= "<think>hm, naïve</think>" "the \N{CRAB}"'
LONG = 16_000
"""Tokens that take many seconds."""

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack before llama.cpp's server."""
    directory = tmp_path_factory.mktemp("real")
    with (
        LlamaServer(directory) as server,
        RunningStack(directory, "--backend", server.url, "--envoy-concurrency", "2", probe_seconds=1) as stack,
    ):
        yield stack
        assert stack.stop() == 0
        assert stack.findings() == []


@pytest.fixture
def watching() -> Watching:
    """What a client package and the network say to each other."""
    return Watching()


@pytest.fixture
def client(stack: RunningStack, watching: Watching) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    http_client = openai.DefaultHttpxClient(transport=watching)
    url = f"{stack.url}/v1"
    with openai.OpenAI(base_url=url, api_key="sk-canary", http_client=http_client, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(stack: RunningStack, watching: Watching) -> Iterator[anthropic.Anthropic]:
    """Anthropic's own client."""
    http_client = anthropic.DefaultHttpxClient(transport=watching)
    with anthropic.Anthropic(base_url=stack.url, api_key="sk-canary", http_client=http_client, max_retries=0) as client:
        yield client


@dataclasses.dataclass
class Got:
    """What a client got, or what a record says of it. The texts, thoughts and calls are those of all choices."""

    id: str | None
    finish_reasons: list[str | None]
    usage: dict[str, Any]
    texts: list[str]
    thoughts: list[str]
    calls: list[tuple[str, str]]


def recorded(stack: RunningStack, seen: Seen) -> Exchange:
    """The record of what a client saw, its bytes compared both ways."""
    exchange = stack.exchange(seen.id)
    # The clients read a stream to its [DONE], and may close the connection before its end.
    assert (exchange.class_, exchange.status) == ("ok", seen.status)
    sent, received = present(exchange.request), present(exchange.response)
    for direction, passed, data in (("request", sent, seen.request), ("response", received, bytes(seen.response))):
        assert (passed.bytes, passed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert bodies.whole(exchange, direction) == data
    assert "sk-canary" not in str(exchange.members())
    return exchange


def said(exchange: Exchange) -> Got:
    """What the record says of the answer."""
    llm = json.loads("".join(with_bodies(exchange)))["llm"]
    assert "parse_error" not in llm
    assert "error" not in llm
    texts, thoughts, calls = _read(llm["output"] or [])
    found = Got(llm["response_id"], llm["finish_reasons"], llm["usage"], texts, thoughts, calls)
    size = sum(map(len, [*found.texts, *found.thoughts])) + sum(len(arguments) for _, arguments in found.calls)
    assert llm["output_chars"] == size or llm["api"] == "messages"  # whose arguments are laid out anew
    assert (llm["ttft_ms"] is not None) == (size > 0)
    return found


def _read(output: list[dict[str, Any]]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The texts, thoughts and calls of an assembled answer of any API."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[tuple[str, str]] = []
    for part in output:
        content = part.get("content")
        for block in content if isinstance(content, list) else [part]:
            text, is_thought = block.get("text") or block.get("content"), block.get("type") == "reasoning_text"
            thought = text if is_thought else block.get("reasoning_content") or block.get("thinking")
            texts += [text] if text and not is_thought else []
            thoughts += [thought] if thought else []
            calls += [(block["name"], json.dumps(block["input"]))] if block.get("type") == "tool_use" else []
        calls += [(call["function"]["name"], call["function"]["arguments"]) for call in part.get("tool_calls") or ()]
        calls += [(part["name"], part["arguments"])] if part.get("type") == "function_call" else []
    return texts, thoughts, calls


def assert_same(found: Got, got: Got) -> None:
    """The record says what the client got; of usage, no less."""
    assert dataclasses.replace(found, usage={}) == dataclasses.replace(got, usage={})
    assert got.usage.items() <= found.usage.items()


# Chat completions ----------------------------------------------------------------------------------------------


def ask_chat(client: openai.OpenAI, *, stream: bool, **parameters: Any) -> Got:
    """A chat completion as the client has it."""
    parameters = {"model": "m", "messages": HELLO, "max_tokens": 200, "seed": 3} | parameters
    if not stream:
        answer = client.chat.completions.create(**parameters)
        return _chat(answer.id, [choice.to_dict() for choice in answer.choices], answer.usage)
    chunks = list(client.chat.completions.create(**parameters, stream=True, stream_options={"include_usage": True}))
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            _add(choices.setdefault(choice.index, {"message": {}, "finish_reason": None}), choice.to_dict())
    usage = [chunk.usage for chunk in chunks if chunk.usage][-1]  # one for each choice
    return _chat(chunks[0].id, [choices[index] for index in sorted(choices)], usage)


def _add(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    choice["finish_reason"] = chunk.get("finish_reason") or choice["finish_reason"]
    message, delta = choice["message"], chunk["delta"]
    for name in ("content", "reasoning_content"):
        message[name] = message.get(name, "") + (delta.get(name) or "")
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            calls.append({"function": {"name": call["function"]["name"], "arguments": ""}})
        calls[call["index"]]["function"]["arguments"] += call["function"].get("arguments") or ""


def _chat(id: str, choices: list[dict[str, Any]], usage: Any) -> Got:
    messages = [choice["message"] for choice in choices]
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return Got(
        id,
        [choice["finish_reason"] for choice in choices],
        usage.to_dict(),
        [message["content"] for message in messages if message.get("content")],
        [message["reasoning_content"] for message in messages if message.get("reasoning_content")],
        [(call["name"], call["arguments"]) for call in calls],
    )


@both
@pytest.mark.parametrize(
    ("parameters", "finish_reasons"),
    [
        pytest.param({"max_tokens": 24}, ["length"], id="text"),
        pytest.param({"max_tokens": 24, "n": 3}, ["length"] * 3, id="three choices"),
        pytest.param({"max_tokens": 1}, ["length"], id="one token"),
        pytest.param({"stop": ["P"], "max_tokens": 300}, ["stop"], id="stop"),
        pytest.param({"tools": [CHAT_TOOL], "tool_choice": "required"}, ["tool_calls"], id="tool"),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}},
            ["stop"],
            id="schema",
        ),
        pytest.param({"extra_body": {"grammar": THOUGHT}}, ["stop"], id="thought"),
        pytest.param({"logprobs": True, "top_logprobs": 5, "max_tokens": 9}, ["length"], id="logprobs"),
        pytest.param({"extra_body": {"timings_per_token": True}, "max_tokens": 9}, ["length"], id="timings"),
    ],
)
def test_chat(
    stack: RunningStack,
    client: openai.OpenAI,
    watching: Watching,
    *,
    stream: bool,
    parameters: dict[str, Any],
    finish_reasons: list[str],
) -> None:
    """Texts, thoughts, tool calls, usage, finish reasons and id of chat completions are those that the client got."""
    got = ask_chat(client, stream=stream, **parameters)
    assert got.finish_reasons == finish_reasons
    assert got.texts or got.calls
    exchange = recorded(stack, watching.seen[0])
    assert (present(exchange.llm).api, present(exchange.llm).stream or False) == ("chat.completions", stream)
    assert_same(said(exchange), got)


def test_a_conversation_with_a_tool(stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """The call and its result, sent back: each turn is its own exchange."""
    first = client.chat.completions.create(
        model="m", messages=HELLO, tools=[CHAT_TOOL], tool_choice="required", max_tokens=200, seed=3
    )
    message = first.choices[0].message
    assert message.tool_calls
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    got = ask_chat(client, stream=True, messages=[*HELLO, message.to_dict(), result], max_tokens=9)
    recorded(stack, watching.seen[0])
    assert_same(said(recorded(stack, watching.seen[1])), got)


def test_found_by_what_others_call_it(stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """By the id that the client got, by the one that Envoy gave the server, and by the end of ours."""
    got = ask_chat(client, stream=True, max_tokens=3)
    exchange = recorded(stack, watching.seen[0])
    for called in (got.id, exchange.request_id, exchange.id[-12:]):
        result = invoke("show", str(called), "--json", "--data-dir", stack.data_dir)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["id"] == exchange.id


# Completions ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("prompt", ["the wind", ["the wind", "naïve"]], ids=["one prompt", "two prompts"])
def test_completions(stack: RunningStack, client: openai.OpenAI, watching: Watching, stream: bool, prompt: Any) -> None:
    """The older API. Of two prompts the server's stream begins with an event that is `null`."""
    parameters: Any = {"model": "m", "prompt": prompt, "max_tokens": 12, "seed": 3}
    if stream:
        chunks = [chunk for chunk in client.completions.create(**parameters, stream=True) if chunk]
    else:
        chunks = [client.completions.create(**parameters)]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    indexes = sorted({choice.index for choice in choices})
    texts = ["".join(choice.text for choice in choices if choice.index == index) for index in indexes]
    exchange = recorded(stack, watching.seen[0])
    found = said(exchange)
    assert present(exchange.llm).api == "completions"
    assert (found.id, found.finish_reasons) == (chunks[0].id, ["length"] * len(indexes))
    assert found.texts == texts
    assert found.usage["prompt_tokens"] > 0
    assert found.usage["completion_tokens"] > 0


@both
@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_the_native_api(stack: RunningStack, watching: Watching, stream: bool, path: str) -> None:
    """llama.cpp's own form, which has neither choices nor [DONE], is a whole answer."""
    with httpx2.Client(transport=watching, base_url=stack.url) as client:
        body = {"prompt": "the wind", "n_predict": 8, "seed": 3, "stream": stream}
        answer = client.post(path, json=body).text
    events = [line.removeprefix("data: ") for line in answer.splitlines() if line]
    parts = [json.loads(event) for event in events]
    exchange = recorded(stack, watching.seen[0])
    found = said(exchange)
    assert exchange.path == path
    assert found.texts == ["".join(part["content"] for part in parts)]
    assert found.finish_reasons == [parts[-1]["stop_type"]] == ["limit"]
    assert found.usage["tokens_predicted"] == parts[-1]["tokens_predicted"] == 8


# Responses -----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"max_output_tokens": 12}, id="text"),
        pytest.param({"tools": [RESPONSES_TOOL], "tool_choice": "required", "max_output_tokens": 200}, id="tool"),
        pytest.param({"extra_body": {"grammar": THOUGHT}, "max_output_tokens": 200}, id="thought"),
    ],
)
def test_responses(
    stack: RunningStack, client: openai.OpenAI, watching: Watching, stream: bool, parameters: dict[str, Any]
) -> None:
    """Responses as documents and as typed events, which have no output_index here."""
    parameters = {"model": "m", "input": "the wind"} | parameters
    answer: Any
    if stream:
        events = list(client.responses.create(**parameters, stream=True))
        answer = events[-1].response  # type: ignore[union-attr]
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert deltas == answer.output_text
    else:
        answer = client.responses.create(**parameters)
    texts, thoughts, calls = _read([item.to_dict() for item in answer.output])
    exchange = recorded(stack, watching.seen[0])
    found = said(exchange)
    assert present(exchange.llm).api == "responses"
    assert texts or calls
    assert_same(found, Got(answer.id, ["completed"], answer.usage.to_dict(), texts, thoughts, calls))


# Anthropic's messages ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("parameters", "stop_reason"),
    [
        pytest.param({"max_tokens": 12}, "max_tokens", id="text"),
        pytest.param({"tools": [MESSAGES_TOOL], "tool_choice": {"type": "any"}}, "tool_use", id="tool"),
    ],
)
def test_messages(
    stack: RunningStack,
    claude: anthropic.Anthropic,
    watching: Watching,
    *,
    stream: bool,
    parameters: dict[str, Any],
    stop_reason: str,
) -> None:
    """Messages with text and tools; usage of start and delta merged."""
    parameters = {"model": "m", "messages": HELLO, "max_tokens": 200} | parameters
    if stream:
        with claude.messages.stream(**parameters) as events:
            answer: Any = events.get_final_message()
    else:
        answer = claude.messages.create(**parameters)
    texts, thoughts, calls = _read([{"content": [block.to_dict() for block in answer.content]}])
    assert answer.stop_reason == stop_reason
    assert texts or calls
    exchange = recorded(stack, watching.seen[0])
    assert present(exchange.llm).api == "messages"
    usage = {name: value for name, value in answer.usage.to_dict().items() if value is not None}
    assert_same(said(exchange), Got(answer.id, [stop_reason], usage, texts, thoughts, calls))


def test_counting_tokens_is_no_message(stack: RunningStack, claude: anthropic.Anthropic, watching: Watching) -> None:
    """A path below that of an API is another one."""
    assert claude.messages.count_tokens(model="m", messages=HELLO).input_tokens > 0
    assert recorded(stack, watching.seen[0]).llm is None


# Errors --------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"messages": "no list"}, id="no list"),
        pytest.param({"extra_body": {"grammar": "root ::= ("}}, id="bad grammar"),
        pytest.param({"messages": [{"role": "user", "content": "wind " * 6000}]}, id="too long"),
    ],
)
def test_errors(
    stack: RunningStack, client: openai.OpenAI, watching: Watching, stream: bool, parameters: dict[str, Any]
) -> None:
    """An error is recorded as the client was told it, with its message."""
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**{"model": "m", "messages": HELLO, "stream": stream} | parameters)
    error = raised.value.body
    assert isinstance(error, dict)
    exchange = stack.exchange(watching.seen[0].id)
    assert (exchange.status, exchange.outcome) == (400, "upstream_error_status")
    assert present(exchange.llm).error == Error(error["type"], error["code"], error["message"])


def test_an_api_that_the_server_does_not_have(stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """It was started without embeddings: 501."""
    with pytest.raises(openai.APIStatusError) as raised:
        client.embeddings.create(model="m", input="the wind")
    exchange = stack.exchange(watching.seen[0].id)
    assert (exchange.status, exchange.outcome) == (501, "upstream_error_status")
    assert present(exchange.llm).api == "embeddings"
    assert raised.value.body
    assert present(present(exchange.llm).error).type == "not_supported_error"


# Cancels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_the_client_leaves_in_the_middle(
    stack: RunningStack, client: openai.OpenAI, claude: anthropic.Anthropic, watching: Watching, api: str
) -> None:
    """What it had got is in the record, perhaps more; and it was the client who left."""
    long: Any = {"model": "m", "stream": True}
    events: Any
    match api:
        case "chat":
            events = client.chat.completions.create(**long, messages=HELLO, max_tokens=LONG)
        case "responses":
            events = client.responses.create(**long, input="the wind", max_output_tokens=LONG)
        case _:
            events = claude.messages.create(**long, messages=HELLO, max_tokens=LONG)
    for _, _event in zip(range(20), events, strict=False):
        pass
    events.close()
    seen = watching.seen[0]
    exchange = stack.told(seen.id)
    assert exchange.outcome == "client_cancel_mid_stream"
    body = bodies.whole(exchange, "response")
    assert body is not None
    assert body.startswith(bytes(seen.response))
    assert present(present(exchange.llm).output_chars) > 0
    assert present(present(exchange.llm).ttft_ms) > 0


def test_the_client_leaves_before_the_answer(stack: RunningStack, watching: Watching) -> None:
    """The server is still at work on an answer in one piece."""
    body = {"messages": HELLO, "max_tokens": LONG}
    path = "/v1/chat/completions?left=early"
    with (
        httpx2.Client(transport=watching, base_url=stack.url, timeout=0.2) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.post(path, json=body)
    exchange = stack.told(stack.exchange_of(path).id)
    assert exchange.outcome == "client_cancel_before_first_byte"
    assert present(present(exchange.llm).params)["max_tokens"] == LONG
    assert exchange.status is None


# Together ------------------------------------------------------------------------------------------------------


def test_many_at_once(stack: RunningStack) -> None:
    """More than the server has slots for, streamed and not, of three APIs: each has its own record."""
    transport = AsyncWatching()

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        stream = bool(number % 2)
        limit = 5 + number
        answer: Any
        match number % 3:
            case 0:
                messages: Any = [{"role": "user", "content": f"wind {number}"}]
                answer = await client.chat.completions.create(
                    model="m", messages=messages, max_tokens=limit, stream=stream
                )
            case 1:
                answer = await client.completions.create(
                    model="m", prompt=f"wind {number}", max_tokens=limit, stream=stream
                )
            case _:
                answer = await client.responses.create(
                    model="m", input=f"wind {number}", max_output_tokens=limit, stream=stream
                )
        if stream:
            async for _ in answer:
                pass

    async def main() -> None:
        http_client = openai.DefaultAsyncHttpxClient(transport=transport)
        url = f"{stack.url}/v1"
        async with openai.AsyncOpenAI(
            base_url=url, api_key="sk-canary", http_client=http_client, max_retries=0
        ) as client:
            await asyncio.gather(*(ask(client, number) for number in range(24)))

    asyncio.run(main())
    assert len({seen.id for seen in transport.seen}) == 24
    for seen in transport.seen:
        said(recorded(stack, seen))


# What it is ----------------------------------------------------------------------------------------------------


def test_the_follower_knows_what_runs(stack: RunningStack, client: openai.OpenAI, watching: Watching) -> None:
    """The engine, its build and its model, by its own word."""
    client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
    exchange = stack.told(watching.seen[0].id)
    at, upstream = present(evidence.seconds(exchange.ended_at)), present(exchange.upstream)

    def running() -> backends.Start | None:
        starts = backends.load([stack.data_dir])
        return next((each for now in (at, time.time()) if (each := starts.running(upstream, now, None))), None)

    said = eventually(running, "what it said of itself").answer
    assert (said.engine, bool(said.version)) == ("llama.cpp", True)
    assert [Path(each).stem for each in said.models] == [MODEL]


@pytest.mark.parametrize("metrics", [False, True])
def test_a_restart_of_a_real_server_is_a_new_start(tmp_path: Path, metrics: bool) -> None:
    """Though it was back before anybody had missed it; without one it is the same."""
    path = tmp_path / "backends.json"
    prober = Prober(backends.Kept(path, 1.0), 1.0, round_seconds=60.0)
    starts: list[int] = []
    port = 0
    for _ in range(2):
        with LlamaServer(tmp_path, port, metrics=metrics) as server:
            upstream = server.url.removeprefix("http://")
            port = int(upstream.rpartition(":")[2])
            prober.named(upstream)
            prober.round()
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                client.chat.completions.create(model="m", messages=HELLO, max_tokens=5)
            prober.round()
            starts.append(len(json.loads(path.read_bytes())["backends"][upstream]))
    assert starts == [1, 2]
