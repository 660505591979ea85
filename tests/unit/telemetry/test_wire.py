"""Spans as bytes: the same as OpenTelemetry's own encoder makes, whatever is in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from extproc.telemetry import wire

RESOURCE = Resource({"service.name": "extproc", "numbers": [1, 2]})
SCOPE = InstrumentationScope("extproc", "1.0", "https://example.com/schema")
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
_VALUES = st.one_of(
    _TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.lists(_TEXTS, max_size=3),
    st.lists(st.integers(-5, 5), max_size=3).map(tuple),
)
_ATTRIBUTES = st.dictionaries(_TEXTS, _VALUES, max_size=6)
_NANOSECONDS = st.integers(0, 2**64 - 1)
_FLAGS = st.sampled_from([TraceFlags(0), TraceFlags(1)])


def context(*, remote: bool = False, state: TraceState | None = None) -> SpanContext:
    """Of a span in a trace."""
    return SpanContext(0x0102 << 100, 0x0A0B, is_remote=remote, trace_flags=TraceFlags(1), trace_state=state)


def span(**said: Any) -> ReadableSpan:
    """One that is as ours are."""
    usual: dict[str, Any] = {
        "context": context(),
        "resource": RESOURCE,
        "kind": SpanKind.CLIENT,
        "start_time": 1,
        "end_time": 2,
    }
    return ReadableSpan("chat m", **(usual | {"instrumentation_scope": SCOPE} | said))


@st.composite
def _spans(draw: st.DrawFn) -> ReadableSpan:
    remote = draw(st.sampled_from([None, False, True]))
    return ReadableSpan(
        draw(_TEXTS),
        context=SpanContext(draw(st.integers(0, 2**128 - 1)), draw(st.integers(0, 2**64 - 1)), False, draw(_FLAGS)),
        parent=None if remote is None else context(remote=remote),
        resource=RESOURCE,
        attributes=draw(_ATTRIBUTES),
        events=[Event(draw(_TEXTS), draw(_ATTRIBUTES), draw(_NANOSECONDS)) for _ in range(draw(st.integers(0, 2)))],
        kind=draw(st.sampled_from(SpanKind)),
        status=Status(draw(st.sampled_from(StatusCode))),
        start_time=draw(_NANOSECONDS),
        end_time=draw(_NANOSECONDS),
        instrumentation_scope=SCOPE,
    )


@given(st.lists(_spans(), min_size=1, max_size=4))
def test_the_bytes_are_those_of_opentelemetry(spans: list[ReadableSpan]) -> None:
    """Byte for byte, of each span that we could make."""
    assert b"".join(map(wire.span, spans))
    assert wire.encoded(spans).SerializeToString() == encode_spans(spans).SerializeToString()


@pytest.mark.parametrize(
    "said",
    [
        {"links": [Link(context())]},
        {"context": context(state=TraceState([("a", "b")]))},
        {"status": Status(StatusCode.ERROR, "why")},
        {"attributes": {"x": b"bytes"}},
        {"attributes": {"x": {"y": 1}}},
        {"attributes": {"x": 2**63}},
        {"attributes": {"x": "\udc80"}},
        {"resource": Resource({"service.name": "other"})},
        {"instrumentation_scope": InstrumentationScope("other")},
        {"instrumentation_scope": None},
        {"start_time": None},
    ],
)
def test_what_ours_do_not_have_is_left_to_opentelemetry(said: dict[str, Any]) -> None:
    """Whatever that makes of it, beside spans that are as ours are."""
    spans = [span(), span(**said)]
    assert wire.encoded(spans) == encode_spans(spans)
