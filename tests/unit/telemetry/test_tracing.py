"""A span from an exchange: its ids, its times, its words, and what must never be in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.exchanges import made

from extproc.config import Config
from extproc.core.outcome import Outcome, outcome_class
from extproc.history.join import Exchange
from extproc.telemetry.tracing import CAPTURE, MAX_TEXT, Tracing, span_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = "00f067aa0ba902b7"
PROMPT = "a canary in a prompt"
ANSWER = "a canary in an answer"
RESOURCE = Resource({})


def exchange(flags: int = 1, **more: Any) -> Exchange:
    """A chat completion that went well; further fields replace its own."""
    fields = {
        "id": "019aa3f2-0000-7000-8000-000000000001",
        "started_at": "2026-11-21T03:12:00.000001Z",
        "ended_at": "2026-11-21T03:12:01.500001Z",
        "outcome": "ok",
        "method": "POST",
        "path": "/v1/chat/completions?api_key=sk-canary",
        "client": "[fd00::9]:50123",
        "status": 200,
        "upstream": "10.0.0.7:8000",
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_span_id": PARENT,
        "request": {"bytes": 10},
        "response": {"bytes": 20, "ended_by": "end_of_stream", "first_byte_ms": 100.0, "last_byte_ms": 1400.0},
        "llm": {
            "api": "chat.completions",
            "model": "gpt-oss-120b",
            "stream": True,
            "params": {
                "temperature": 1,
                "top_p": 0.9,
                "n": 2,
                "stop": "END",
                "response_format": {"type": "json_schema"},
            },
            "finish_reasons": ["stop", None],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
            "ttft_ms": 150.0,
        },
        "protocol": {"late": {"response.body": 2}, "duplicate_end_of_stream": 0},
    }
    request = {"request": {"body": {"text": json.dumps({"messages": [{"role": "user", "content": PROMPT}]})}}}
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}
    response = {"response": {"body": {"text": json.dumps(answer)}}}
    records: dict[str, Any] = {"request": {"trace_flags": flags, **request}, "response": response}
    return made(fields | more, records)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """What it says."""
    return dict(span.attributes or {})


def test_ids_and_times_are_those_of_the_record() -> None:
    """Never new ones: made again, it is the same span."""
    span = span_of(exchange(), RESOURCE)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert (f"{span.context.span_id:016x}", f"{span.parent.span_id:016x}") == (SPAN, PARENT)
    assert span.start_time is not None
    assert span.end_time is not None
    assert (span.start_time % 1_000_000_000, span.end_time - span.start_time) == (1000, 1_500_000_000)


def test_a_root() -> None:
    """Nobody above."""
    assert span_of(exchange(parent_span_id=None), RESOURCE).parent is None


def test_what_it_says() -> None:
    """Named by the conventions, typed as they want it."""
    span = span_of(exchange(), RESOURCE)
    assert span.name == "chat gpt-oss-120b"
    said = attributes(span)
    assert said["gen_ai.request.temperature"] == 1.0
    assert isinstance(said["gen_ai.request.temperature"], float)
    for name, value in {
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.output.type": "json",
        "gen_ai.response.finish_reasons": ["stop", "error"],
        "gen_ai.response.time_to_first_chunk": 0.15,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "server.address": "10.0.0.7",
        "server.port": 8000,
        "client.address": "fd00::9",
        "url.path": "/v1/chat/completions",
    }.items():
        assert said[name] == value
    assert "error.type" not in said


def test_events() -> None:
    """With their times; a late message has none of its own, and comes with the end."""
    span = span_of(exchange(), RESOURCE)
    assert span.start_time is not None
    found = [(event.name, (event.timestamp - span.start_time) / 1e6) for event in span.events]
    assert found == [("first byte", 100.0), ("first token", 150.0), ("end of stream", 1400.0), ("late message", 1500.0)]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_outcome(outcome: Outcome) -> None:
    """Not ok: an error's type. An error of the span only where it was not the client's own doing."""
    span = span_of(exchange(outcome=outcome.value), RESOURCE)
    assert attributes(span).get("error.type") == (None if outcome_class(outcome) == "ok" else outcome.value)
    fault = outcome_class(outcome) in {"upstream", "sidecar", "unknown"}
    assert (span.status.status_code is StatusCode.ERROR) is fault


@pytest.mark.parametrize(("status", "fault"), [(400, False), (429, False), (500, True)])
def test_a_clients_mistake_is_no_error_of_the_span(status: int, fault: bool) -> None:
    """The outcome is its type all the same."""
    span = span_of(exchange(outcome="upstream_error_status", status=status), RESOURCE)
    assert attributes(span)["error.type"] == "upstream_error_status"
    assert (span.status.status_code is StatusCode.ERROR) is fault


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"llm": None}, "POST"),
        ({"llm": None, "method": None}, "HTTP"),
        ({"llm": {"api": "embeddings", "model": "bge"}}, "embeddings bge"),
        ({"llm": {"api": "completions", "model": None}}, "text_completion"),
        ({"llm": {"api": "messages", "model": "x" * 9999}}, "chat " + "x" * MAX_TEXT),
    ],
)
def test_names(more: dict[str, Any], name: str) -> None:
    """Of few values: neither a path nor a name without end."""
    assert span_of(exchange(**more), RESOURCE).name == name


def test_nothing_that_was_said_is_in_it() -> None:
    """Neither the prompt, nor the answer, nor the key of the query."""
    text = span_of(exchange(), RESOURCE).to_json()
    for secret in (PROMPT, ANSWER, "sk-canary"):
        assert secret not in text


def test_content_that_was_asked_for() -> None:
    """As the conventions' attributes, in JSON."""
    said = attributes(span_of(exchange(), RESOURCE, content=True))
    assert json.loads(said["gen_ai.input.messages"])[0]["content"] == PROMPT
    assert ANSWER in said["gen_ai.output.messages"]


def test_names_of_the_newest_mode() -> None:
    """Where they differ."""
    usage = {"usage": {"input_tokens": 1, "cache_creation_input_tokens": 2}, "api": "messages"}
    old, new = (attributes(span_of(exchange(llm=usage), RESOURCE, latest=latest)) for latest in (False, True))
    assert old["gen_ai.usage.cache_creation.input_tokens"] == 2
    assert new["gen_ai.usage.cache_write.input_tokens"] == 2


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
llms = st.none() | st.fixed_dictionaries(
    {"api": st.sampled_from(["chat.completions", "messages", "odd", None])},
    optional={
        "model": values,
        "params": st.none()
        | st.dictionaries(st.sampled_from(["temperature", "n", "stop", "seed", "response_format"]), values),
        "usage": values,
        "finish_reasons": values,
        "ttft_ms": values,
        "stream": values,
    },
)


@given(llms, values, values, values)
@example({"ttft_ms": 1.6e13}, None, None, None)
@example({"ttft_ms": -1}, None, None, None)
@example({"ttft_ms": float("nan")}, None, None, None)
def test_odd_exchanges(llm: Any, upstream: Any, status: Any, path: Any) -> None:
    """Whatever a client or a server has said, there is a span, and OTLP can encode it."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans  # noqa: PLC0415

    span = span_of(exchange(llm=llm, upstream=upstream, status=status, path=path), RESOURCE)
    assert encode_spans([span]).ByteSize() > 0


# The consumer ------------------------------------------------------------------------------------------------


def traced(
    *exchanges: Exchange, ratio: float = 1.0, environ: dict[str, str] | None = None
) -> tuple[Tracing, list[ReadableSpan]]:
    """What a consumer exports."""
    exporter = InMemorySpanExporter()
    tracing = Tracing.create(Config(otlp="http://nowhere:1"), environ or {}, exporter)
    assert tracing is not None
    tracing.sample_ratio = ratio
    for each in exchanges:
        tracing.exchange(each)
    tracing.close(5.0)
    return tracing, list(exporter.get_finished_spans())


def test_no_collector_no_tracing() -> None:
    """There is nothing to be done then."""
    assert Tracing.create(Config(), {}) is None


def test_the_parents_decision_is_respected() -> None:
    """Not sampled: no span, and it is counted."""
    tracing, spans = traced(exchange(), exchange(flags=0))
    assert (len(spans), tracing.exported, tracing.unsampled) == (1, 1, 1)


def test_an_exchange_without_ids() -> None:
    """An answer without a request has none to go by."""
    alone = exchange(trace_id=None, span_id=None)
    tracing, spans = traced(alone)
    assert (spans, tracing.unsampled) == ([], 1)


@pytest.mark.parametrize(
    ("environ", "root", "child"),
    [
        ({}, True, True),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, True, True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, False, True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, False, True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, True, True),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "odd"}, True, True),
    ],
)
def test_our_own_roots_are_sampled_as_the_variables_say(environ: dict[str, str], root: bool, child: bool) -> None:
    """What has a parent follows that one."""
    assert bool(traced(exchange(parent_span_id=None), environ=environ)[1]) is root
    assert bool(traced(exchange(), environ=environ)[1]) is child


def test_overload_leaves_whole_traces_out() -> None:
    """By the trace's id, so that all of a trace is there or none of it; what is left out is counted as dropped."""
    many = [exchange(trace_id=f"{number:016x}{number * 0x0100_0000_0000_0000:016x}") for number in range(1, 201)]
    tracing, spans = traced(*many, ratio=0.5)
    assert len(spans) + tracing.dropped == 200
    assert 50 < len(spans) < 150
    again = traced(*many, ratio=0.5)[1]
    assert [span.context.trace_id for span in again if span.context] == [
        span.context.trace_id for span in spans if span.context
    ]


@pytest.mark.parametrize(
    ("value", "captures"), [("", False), ("NO_CONTENT", False), ("span_only", True), ("SPAN_AND_EVENT", True)]
)
def test_content_is_asked_for_by_a_variable(value: str, captures: bool) -> None:
    """And by nothing else."""
    tracing, (span,) = traced(exchange(), environ={CAPTURE: value})
    assert tracing.captures_content is captures
    assert (PROMPT in span.to_json()) is captures


def test_it_says_when_everything_is_out_of_its_hands() -> None:
    """So that the follower's position is kept only then."""
    tracing, _ = traced(exchange(), exchange())
    assert tracing.sequence() == 2
    assert tracing.flushed_to(2)
    assert not tracing.flushed_to(3)
