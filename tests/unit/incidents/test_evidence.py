"""An exchange as the search sees it."""

from __future__ import annotations

from typing import Any

import pytest
from support.worlds import START, World

from extproc.core.outcome import Outcome
from extproc.core.times import timestamp
from extproc.incidents import evidence
from extproc.incidents.evidence import End


def one(*arguments: Any, **more: Any) -> evidence.Flight:
    """The flight of one exchange."""
    world = World()
    world.add(*arguments, **more)
    (found,) = world.flights()
    return found


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_an_end(outcome: Outcome) -> None:
    """The backend's bad ends are those that it, or its connection, made."""
    bad = {"upstream_error_frame", "upstream_reset_before_headers", "upstream_reset_mid_stream", "upstream_truncated"}
    end = one(0, 1, outcome.value, status=200).end
    assert (end is End.BAD) == (outcome.value in bad)
    assert end is not End.RUNNING


@pytest.mark.parametrize(("status", "end"), [(400, End.DECLINED), (404, End.DECLINED), (500, End.BAD), (503, End.BAD)])
def test_an_error_is_the_backends_from_500_on(status: int, end: End) -> None:
    """Below it is the request's."""
    assert one(0, 1, "upstream_error_status", status=status).end is end


def test_times_are_those_of_the_exchange() -> None:
    """In seconds since 1970."""
    found = one(1, 9, first=2, last=8, silence=(3, 7))
    assert [found.started, found.token, found.last_byte, found.ended] == pytest.approx(
        [START + at for at in (1, 2, 8, 9)]
    )
    assert found.silence == pytest.approx((START + 3, START + 7))


def test_an_answer_in_one_piece_has_its_tokens_when_it_comes() -> None:
    """Before, nobody knows."""
    assert one(0, 4, stream=False, last=4).token == START + 4


@pytest.mark.parametrize(("answer", "end"), [(b"null", End.BAD), (b"null\n", End.BAD), (b'"null"', End.GOOD)])
def test_a_whole_answer_that_is_null_is_the_servers_failure(answer: bytes, end: End) -> None:
    """Its handler returned nothing: TensorRT-LLM's when its executor dies."""
    found = one(0, 4, stream=False, last=4, answer=answer)
    assert (found.end, found.token is None) == (end, end is End.BAD)


def test_what_never_reached_a_backend_says_nothing() -> None:
    """It has no upstream."""
    world = World()
    world.add(0, 1, "rejected_by_policy", status=403)
    world.exchanges[0]["upstream"] = None
    assert world.flights() == []


def test_a_report_of_the_end_is_no_sign_of_life() -> None:
    """A stream that was silent for long, and then got an error, was quiet since its last token."""
    found = one(0, 60, "upstream_error_frame", first=1, silence=(10, 60))
    assert found.quiet_from() == pytest.approx(START + 10)


@pytest.mark.parametrize(
    ("flag", "end"), [("UF", End.REFUSED), ("UC", End.BAD), ("UR", End.BAD), ("UT", End.LEFT), ("UO", None)]
)
def test_an_attempt_before_the_last_counts_where_it_was(flag: str, end: End | None) -> None:
    """The last one had its backend only from then on."""
    world = World()
    world.add(0, 5, first=3, upstream="gpu-2:8000", failed_attempts=[(0.1, 1.5, "gpu-1:8000", flag)])
    *before, last = world.flights()
    assert [(each.upstream, each.end) for each in before] == ([("gpu-1:8000", end)] if end else [])
    assert (last.upstream, last.started) == ("gpu-2:8000", START + 1.5)


@pytest.mark.parametrize(
    ("outcome", "quiet"), [("upstream_reset_mid_stream", 14.1), ("upstream_error_frame", 10.0), ("ok", 14.1)]
)
def test_the_last_piece_is_a_report_only_where_there_was_one(outcome: str, quiet: float) -> None:
    """What broke off without a word gave a token last, however short before that it was silent."""
    world = World()
    world.add(5, 30, outcome, first=6, last=14.1, silence=(10, 14))
    (flight,) = world.flights()
    assert flight.quiet_from() == pytest.approx(START + quiet)


@pytest.mark.parametrize(
    ("progress", "last"),
    [
        ({"request_chunks": 1, "last_chunk_at": timestamp((START + 1) * 10**9)}, None),
        ({"request_chunks": 1, "last_chunk_at": timestamp((START + 1) * 10**9), "first_byte_ms": 1500.0}, 1.5),
        ({"response_chunks": 2, "last_chunk_at": timestamp((START + 4) * 10**9), "first_byte_ms": 1500.0}, 4),
    ],
)
def test_the_last_piece_of_what_runs_is_of_its_answer(progress: dict[str, Any], last: float | None) -> None:
    """Not of its request."""
    world = World()
    world.add(0, None, None, status=None)
    world.exchanges[0]["response"] = None
    world.exchanges[0]["progress"] = progress
    (found,) = world.flights()
    assert found.last_byte == (None if last is None else START + last)


@pytest.mark.parametrize(
    ("more", "signs"),
    [
        ({"outcome": "client_cancel_mid_stream", "headers": 1.1}, []),
        ({"outcome": "client_cancel_mid_stream", "headers": 1.1, "last": 5}, [5]),
        ({"outcome": "client_cancel_mid_stream", "headers": 1.1, "first": 3, "last": 5}, [3, 5]),
        ({"outcome": "ok", "headers": 1.1, "first": 3, "last": 9}, [3, 9]),
        ({"outcome": "upstream_reset_mid_stream", "headers": 1.1}, []),
        ({"outcome": "upstream_error_status", "status": 400, "stream": False, "last": 2, "headers": 2}, [2, 2]),
        ({"outcome": "upstream_connect_fail", "status": 503}, []),
    ],
)
def test_headers_are_no_sign_of_an_engine(more: dict[str, Any], signs: list[float]) -> None:
    """A stream's are given by servers whose engine hangs, too; what comes long after them is one."""
    assert one(1, 9, **more).signs() == pytest.approx([START + at for at in signs])
