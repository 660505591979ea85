"""A record as a line."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core import record

LINE = record.seal(record.encode({"type": "request", "text": "käse\n"}), 3, "b00f", 17)


def test_a_sealed_line_is_one_ascii_json_object_with_its_checksum_last() -> None:
    """Anybody with a JSON parser and a CRC-32C can read the journal."""
    assert LINE.isascii()
    assert LINE.count(b"\n") == 1
    assert list(json.loads(LINE)) == ["type", "text", "worker", "boot_id", "seq", "crc"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        st.lists,
    )
)
def test_what_is_sealed_comes_back(value: object) -> None:
    """Any text, any nesting and any finite number survive."""
    assert record.unseal(record.seal(record.encode({"value": value}), 0, "b", 1))["value"] == value


@pytest.mark.parametrize("index", range(len(LINE) - 1))
def test_a_changed_byte_is_found(index: int) -> None:
    """Each byte of a line is covered, the checksum's own included."""
    changed = bytearray(LINE)
    changed[index] ^= 0x01
    with pytest.raises(record.DamagedLine):
        record.unseal(bytes(changed))


@pytest.mark.parametrize("length", range(len(LINE) - 1))
def test_a_line_cut_anywhere_is_damaged(length: int) -> None:
    """No beginning of a line passes for a line."""
    with pytest.raises(record.DamagedLine):
        record.unseal(LINE[:length])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), "null"),
        (float("inf"), "null"),
        (10**30, "1000000000000000000000000000000"),
        ("\ud800", '"\\ud800"'),
        ("\u2028\x00\x1b", '"\\u2028\\u0000\\u001b"'),
        (msgspec.Raw(b'{\n"a": 1}'), '{"a":1}'),
    ],
)
def test_values_that_break_other_logs_are_written(value: object, written: str) -> None:
    """Numbers out of range, lone surrogates, control characters and verbatim JSON with line ends."""
    assert record.encode({"value": value}) == f'{{"value":{written}}}'.encode()


def test_a_number_of_too_many_digits_is_written() -> None:
    """Python refuses to convert it to decimal text; the record holds it all the same."""
    assert json.loads(record.encode({"value": 10**5000}))["value"] == hex(10**5000)


def test_nesting_beyond_the_encoder_costs_the_parameters_only() -> None:
    """The rest of the record is what matters then."""
    value: object = None
    for _ in range(100_000):
        value = [value]
    fields = json.loads(record.encode({"type": "request", "llm": {"params": value}}))
    assert fields == {"type": "request", "llm": {"parse_error": "nested too deeply to be written"}}
    while value:  # taken apart by hand: a plain del recurses
        value = value[0]  # type: ignore[index]
