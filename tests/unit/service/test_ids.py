"""Ids."""

from __future__ import annotations

import re
import uuid

from extproc.service import ids

NOW = 1_732_150_800_123_456_789


def test_an_exchange_id_is_a_uuid_of_version_7_with_its_time() -> None:
    """RFC 9562: version, variant, and the milliseconds in the first 48 bits."""
    id = uuid.UUID(ids.exchange_id(NOW))
    assert (id.version, id.variant, id.int >> 80) == (7, uuid.RFC_4122, NOW // 1_000_000)


def test_ids_sort_by_time_below_a_millisecond() -> None:
    """A microsecond later is a greater id."""
    made = [ids.exchange_id(NOW + step * 1000) for step in range(500)]
    assert made == sorted(made)


def test_ids_of_one_moment_differ() -> None:
    """Sixty-two bits of chance keep a fleet's ids apart."""
    assert len({ids.exchange_id(NOW) for _ in range(1000)}) == 1000


def test_a_root_span_has_valid_ids() -> None:
    """Lower-case hexadecimal of the lengths of W3C Trace Context, never all zero."""
    span = ids.root_span()
    assert re.fullmatch("[0-9a-f]{32}", span.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", span.span_id)
    assert (span.parent_span_id, span.trace_flags) == (None, 1)
