"""The parent of an exchange's span."""

from __future__ import annotations

import pytest

from extproc.core.trace import TraceContext, under

NEW = TraceContext("0" * 31 + "1", "2" * 16)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "value"), [("00", 0), ("01", 1), ("03", 3)])
def test_a_valid_parent_gives_its_trace_and_its_flags(flags: str, value: int) -> None:
    """The span stays ours; the trace and the sampling decision are the parent's."""
    assert under(f"00-{TRACE}-{SPAN}-{flags}", NEW) == TraceContext(TRACE, NEW.span_id, SPAN, value)


def test_a_later_version_may_say_more() -> None:
    """Version 00 has four fields; what a later version appends is ignored (W3C Trace Context, 4.1)."""
    assert under(f"01-{TRACE}-{SPAN}-01-what-comes", NEW) is not None


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "",
        "garbage",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_a_malformed_parent_is_no_parent(malformed: str | None) -> None:
    """A client cannot break the trace by what it sends."""
    assert under(malformed, NEW) is None
