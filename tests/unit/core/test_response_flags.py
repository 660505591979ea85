"""Envoy's response flags by name."""

from __future__ import annotations

from extproc.core.response_flags import NAMES, names


def test_bits_have_the_names_of_envoys_access_log() -> None:
    """Several bits give several names, lowest first; no bit gives none."""
    assert names(0) == []
    assert names(1 << NAMES.index("UC") | 1 << NAMES.index("UH")) == ["UH", "UC"]


def test_a_bit_that_envoy_added_since_is_shown_by_number() -> None:
    """An unknown flag is not lost."""
    assert names(1 << 40) == ["bit 40"]
