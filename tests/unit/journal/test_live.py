"""The table of what is in flight: what is written is read, from another process, whole, also after a death."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from extproc.journal import live
from extproc.journal.live import HOT, NOTHING, REQUEST_OVER, RESPONSE_BEGAN, LiveTable, Slot

SECOND = 1_000_000_000
STARTED = 1_763_694_720 * SECOND
TIMES = (3 * SECOND, SECOND, 2 * SECOND, 2 * SECOND, 3 * SECOND)
HOT_FIELDS = (*TIMES, 100, 2000, 1, 20, 200, REQUEST_OVER | RESPONSE_BEGAN)


@pytest.fixture
def table(tmp_path: Path) -> LiveTable:
    """A table with four slots."""
    return LiveTable(tmp_path / "live" / "w0-b00t.table", slots=4)


def begin(table: LiveTable, id: str, *texts: str) -> Slot:
    """A slot of which no more is known than what these texts say, and when it began."""
    slot = table.take()
    assert slot is not None
    slot.describe(NOTHING, STARTED, id, *[*texts, None, None, None, None][:4])
    return slot


def read(tmp_path: Path) -> dict[str, live.LiveExchange]:
    """What is in all tables, by id."""
    return {each.id: each for each in live.read(tmp_path)}


def test_what_is_written_is_read(tmp_path: Path, table: LiveTable) -> None:
    """Every field, and nothing that has not come."""
    slot = table.take()
    assert slot is not None
    assert read(tmp_path) == {}
    slot.describe(NOTHING, STARTED, "first", None, None, None, None)
    assert read(tmp_path)["first"] == live.LiveExchange(
        0, "b00t", "first", STARTED, None, None, None, None, None, 0, 0, False, 0, 0, False, False, None, None, None,
        silence_ns=None,
    )  # fmt: skip
    slot.describe(NOTHING, STARTED, "first", "POST", "/v1/chat/completions", "10.0.0.7:8000", "llm")
    slot.advance(HOT_FIELDS)
    assert read(tmp_path)["first"].fields() == {
        "upstream": "10.0.0.7:8000",
        "cluster": "llm",
        "status": 200,
        "progress": {
            "request_bytes": 100,
            "request_chunks": 1,
            "response_bytes": 2000,
            "response_chunks": 20,
            "first_byte_ms": 1000.0,
            "first_token_ms": 2000.0,
            "last_chunk_at": "2025-11-21T03:12:03.000000Z",
            "max_silence_ms": 1000.0,
            "silence_at_ms": 2000.0,
        },
    }
    seen = read(tmp_path)["first"]
    assert (seen.request_over, seen.response_began, seen.response_over) == (True, True, False)


def test_the_last_chunk_is_where_a_record_of_the_end_has_it(tmp_path: Path, table: LiveTable) -> None:
    """To the microsecond, so that what fell silent at a moment goes by the same name later."""
    slot = table.take()
    assert slot is not None
    slot.describe(NOTHING, STARTED + 600, "first", None, None, None, None)
    slot.advance((SECOND + 1600, *HOT_FIELDS[1:]))
    assert read(tmp_path)["first"].progress().last_chunk_at == "2025-11-21T03:12:01.000001Z"


def test_a_slot_is_used_again(tmp_path: Path, table: LiveTable) -> None:
    """The next exchange has nothing of the one before."""
    slot = begin(table, "first", "POST", "/", "10.0.0.7:8000", "llm")
    slot.advance(HOT_FIELDS)
    slot.free()
    assert read(tmp_path) == {}
    begin(table, "second")
    (second,) = read(tmp_path).values()
    assert (second.id, second.upstream, second.response_bytes, second.status) == ("second", None, 0, None)


def test_what_is_beyond_the_slots_is_counted(tmp_path: Path, table: LiveTable) -> None:
    """And has no slot; there is one again when another exchange has ended."""
    slots = [begin(table, f"{number}") for number in range(4)]
    assert [table.take(), table.take()] == [None, None]
    assert (table.beyond, len(read(tmp_path))) == (2, 4)
    slots[0].free()
    assert table.take() is not None


def test_long_and_odd_texts(tmp_path: Path, table: LiveTable) -> None:
    """They are cut at their place's end, and hold up nothing."""
    begin(table, "first", "POST" * 10, "/\u00e9" * 100, "a" * 300, "\ud800")
    seen = read(tmp_path)["first"]
    assert (len(seen.method or ""), len(seen.upstream or ""), seen.cluster) == (16, 64, "?")
    assert (seen.path or "").startswith("/\u00e9/\u00e9")


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 8192])
def test_a_file_that_is_no_table_has_nothing(tmp_path: Path, table: LiveTable, damage: bytes) -> None:
    """Empty, cut short, or anything else; the tables beside it are read."""
    begin(table, "first")
    (tmp_path / "live" / "w1-b00t.table").write_bytes(damage)
    (tmp_path / "live" / "other").write_bytes(damage)
    assert list(read(tmp_path)) == ["first"]


def test_a_table_from_before_the_machine_was_started_is_not_read(tmp_path: Path, table: LiveTable) -> None:
    """What a power cut leaves in it may be anything."""
    begin(table, "first")
    table.map[16:20] = b"0000"
    assert read(tmp_path) == {}


def test_a_slot_whose_writer_died_in_the_middle_is_passed_over(tmp_path: Path, table: LiveTable) -> None:
    """Its number is odd for ever."""
    begin(table, "first")
    begin(table, "second")
    table.map[4096] |= 1
    assert list(read(tmp_path)) == ["second"]


def test_a_table_is_taken_away_at_the_end(tmp_path: Path, table: LiveTable) -> None:
    """By its worker, or after a death by recovery."""
    table.close()
    assert list((tmp_path / "live").iterdir()) == []
    begin(LiveTable.create(tmp_path, 0, "dead"), "first")
    live.remove(tmp_path, 0, "dead")
    live.remove(tmp_path, 0, "dead")
    assert list((tmp_path / "live").iterdir()) == []


WRITER = """
    import sys
    from pathlib import Path
    from extproc.journal.live import LiveTable
    table = LiveTable.create(Path(sys.argv[1]), 0, "b00t")
    slots = [table.take() for number in range(8)]
    def hot(number):
        return (*[number] * 7, number % 2**32, number % 2**32, 200, 7)
    def describe(slot, number):
        slot.describe(hot(number), number, f"{number % 10000:04}", f"{number}", f"{number}", f"{number}", f"{number}")
    for slot in slots:
        describe(slot, 1)
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        for index, slot in enumerate(slots):
            slot.advance(hot(number))
            if number % 50 == 0:
                slot.free()
                slots[index] = table.take()
                describe(slots[index], number)
"""


@pytest.mark.timeout(120)
def test_a_reader_never_sees_a_torn_slot(tmp_path: Path) -> None:
    """Beside a writer that does nothing but write; and after its kill -9 the slots are still there."""
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen = 0
        for _ in range(500):
            for each in live.read(tmp_path):
                seen += 1
                assert each.request_bytes == each.response_bytes
                assert each.first_byte_ns == each.first_token_ns == each.last_chunk_ns
                assert each.method == each.path == each.upstream == each.cluster
        assert seen > 1000
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert len(read(tmp_path)) >= 1
    assert (tmp_path / "live" / "w0-b00t.table").stat().st_mode & 0o777 == 0o600


def test_the_hot_part_fits_in_front_of_the_cold_one() -> None:
    """A slot is as large as both."""
    assert live._COLD_AT + live._COLD.size <= live.SLOT_BYTES
    assert live._HOT_AT + HOT.size == live._COLD_AT
