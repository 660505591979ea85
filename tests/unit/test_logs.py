"""The operators' log: one event a line, readable by programs and people, never flooded, never a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from extproc import logs
from extproc.logs import JsonFormatter, RateLimit, TextFormatter


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, Callable[[logging.Formatter], list[str]]]]:
    """A logger of its own, and what it says when formatted so."""
    logger = logging.getLogger("extproc.test_logs")
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep()
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, lambda formatter: [formatter.format(record) for record in records]
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_line_of_json(log: Any) -> None:
    """Time, level, event, component, and what the call has added."""
    logger, said = log
    logger.warning("segment %d is damaged", 7, extra={"exchange_id": "x", "trace_id": "t", "span_id": "s"})
    (text,) = said(JsonFormatter("worker 0"))
    line = json.loads(text)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "segment 7 is damaged",
        "component": "worker 0",
        "exchange_id": "x",
        "trace_id": "t",
        "span_id": "s",
    }


def test_a_line_for_a_person(log: Any) -> None:
    """The same in words."""
    logger, said = log
    logger.warning("segment %d is damaged", 7, extra={"exchange_id": "x"})
    assert said(TextFormatter("worker 0")) == ["extproc worker 0: segment 7 is damaged exchange_id=x"]


@pytest.mark.parametrize("formatter", [JsonFormatter("c"), TextFormatter("c")], ids=["json", "text"])
def test_an_exception_is_told_without_its_text(log: Any, formatter: logging.Formatter) -> None:
    """Its text may quote a body."""
    logger, said = log
    try:
        int("a secret prompt")
    except ValueError:
        logger.exception("it went wrong")
    (text,) = said(formatter)
    assert "ValueError at test_an_exception_is_told_without_its_text:" in text
    assert "secret" not in text
    assert "\n" not in text


@pytest.mark.parametrize("formatter", [JsonFormatter("c"), TextFormatter("c")], ids=["json", "text"])
def test_control_characters_are_visible(log: Any, formatter: logging.Formatter) -> None:
    """Nothing in a line can pretend to be another line's beginning, or move a cursor."""
    logger, said = log
    logger.warning("%s", "a\x1b[2Jb\u202e")
    (text,) = said(formatter)
    assert text.isprintable()


def test_an_event_is_told_so_often_and_then_counted(log: Any) -> None:
    """Ten times a period, whatever is filled in; then how many there were."""
    logger, said = log
    now = [0.0]
    limit = RateLimit(lambda: now[0])
    logger.addFilter(limit)
    try:
        for number in range(100):
            logger.warning("exchange %d", number)
        logger.warning("another event")
        assert len(said(TextFormatter(""))) == logs.MAX_LINES + 1
        now[0] = logs.PERIOD_SECONDS
        logger.warning("exchange %d", 100)
        assert said(TextFormatter(""))[-1] == "extproc: exchange 100 (90 more like it were left out)"
    finally:
        logger.removeFilter(limit)


@pytest.mark.parametrize(("form", "as_json"), [("auto", True), ("json", True), ("text", False)])
def test_set_up(form: str, as_json: bool) -> None:
    """To stderr; `auto` is JSON where no person reads."""
    script = (
        f"import logging\nfrom extproc import logs\nlogs.setup('c', {form!r})\nlogging.getLogger('x').info('hello')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout == ""
    if as_json:
        assert json.loads(done.stderr)["event"] == "hello"
    else:
        assert done.stderr == "extproc c: hello\n"
