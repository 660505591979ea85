"""What the records of one exchange say together."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.exchanges import present
from support.journals import START_NS, access, id_of, request, response

from extproc.core.record import encode
from extproc.core.records import AnyRecord, Attempt, of_fields
from extproc.core.times import later, timestamp
from extproc.history.join import ACCESS_SECONDS, Exchange, Parts

END = timestamp(START_NS + 1_000_000_000)


def unseal_any(record: bytes) -> AnyRecord:
    """The record of an object that has no seal."""
    return of_fields(json.loads(record))


def joined(*records: bytes, now: str | None = None) -> Exchange:
    """The exchange of these records."""
    parts = Parts(id_of(1), Path("data"))
    for record in records:
        parts.add(unseal_any(record))
    return parts.exchange(now)


def orphan() -> bytes:
    """The record that recovery writes."""
    return encode({"type": "orphan", "id": id_of(1), "at": END, "had": "request"})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_access_entry_may_come_at_any_place(order: tuple[int, ...]) -> None:
    """Its facts are there whatever came first."""
    failed = [{"upstream": "127.0.0.1:8002"}]
    records = (request(1), response(1), access(1, attempts=2, failed_attempts=failed))
    exchange = joined(*(records[index] for index in order))
    assert (exchange.upstream, exchange.cluster, exchange.route) == ("127.0.0.1:8001", "llm", "all")
    assert (exchange.attempts, exchange.access_log, exchange.outcome) == (2, "received", "ok")
    assert exchange.failed_attempts == [Attempt(upstream="127.0.0.1:8002")]
    assert present(exchange.envoy).duration_ms == 1000.0
    assert exchange.integrity == []
    assert set(exchange.records) == {"request", "response", "access"}


def test_envoys_last_word_stands_before_what_it_said_in_between() -> None:
    """A flag that came with the response headers gives way to those of the end; so do details and upstream."""
    details = "upstream_reset_after_response_started{x}"
    first: dict[str, Any] = {"response_flags": ["UH"], "upstream": "a:1", "cluster": "x"}
    last: dict[str, Any] = {"response_flags": ["UC"], "response_code_details": details}
    exchange = joined(request(1), response(1, **first), access(1, **last, upstream="b:2", cluster=None))
    assert exchange.response_flags == ["UC"]
    assert exchange.response_code_details == details
    assert (exchange.upstream, exchange.cluster) == ("b:2", "x")


def test_what_another_version_has_written() -> None:
    """A member that an older version did not write is null, at whatever depth; one of a newer version stays."""
    line: dict[str, Any] = {"type": "request", "id": id_of(1), "at": END, "routing": {"by": "body", "new": [1]}}
    end: dict[str, Any] = {"type": "response", "id": id_of(1), "at": END}
    exchange = joined(
        encode(line | {"request": {"bytes": 2, "new": {"a": None}}}),
        encode(end | {"response": {"bytes": 1, "chunks": "many"}, "llm": {"error": {"type": "x"}}}),
        access(1, failed_attempts=[{"status": 500, "new": 1}], tls={"sni": "a"}),
    ).members()
    assert exchange.keys() == set(joined(request(1), response(1)).members())
    attempt = dict.fromkeys(Attempt.__struct_encode_fields__[:-1]) | {"status": 500, "new": 1}
    assert exchange["failed_attempts"] == [attempt]
    assert exchange["routing"] == {"by": "body", "why": None, "set": {}, "new": [1]}
    assert exchange["llm"]["error"] == {"type": "x", "code": None, "message": None}
    assert exchange["protocol"] == {"late": {}, "duplicate_end_of_stream": 0}
    assert exchange["envoy"]["tls"]["sni"] == "a"
    assert exchange["envoy"]["tls"]["version"] is None
    asked, answered = exchange["request"], exchange["response"]
    assert (asked["bytes"], asked["sha256"], asked["new"]) == (2, None, {"a": None})
    assert (answered["bytes"], answered["chunks"], answered["max_silence_ms"]) == (1, "many", None)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (END, "pending"),
        (later(END, ACCESS_SECONDS), "pending"),
        (later(END, ACCESS_SECONDS + 1), "missing"),
        (None, "missing"),
    ],
)
def test_an_entry_that_does_not_come(now: str | None, expected: str) -> None:
    """For a while it may still be under way; after that the record says that it is missing."""
    exchange = joined(request(1), response(1), now=now)
    assert (exchange.access_log, exchange.envoy, exchange.attempts) == (expected, None, None)


def test_an_exchange_in_flight_expects_its_entry() -> None:
    """However long it takes."""
    assert joined(request(1), now="2999-01-01T00:00:00.000000Z").access_log == "pending"


def test_an_orphan_has_an_entry_too() -> None:
    """Envoy tells of the exchange whose sidecar died; that it is an orphan stays."""
    exchange = joined(request(1), orphan(), access(1, response_flags=["UAEX"]))
    assert (exchange.outcome, exchange.response_flags) == ("sidecar_restart_orphan", ["UAEX"])


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ({"request_bytes": 2, "response_bytes": 2}, []),
        ({"request_bytes": 3}, [{"direction": "request", "envoy": 3, "recorded": 2}]),
        ({"response_bytes": 0}, [{"direction": "response", "envoy": 0, "recorded": 2}]),
        ({"request_bytes": None, "response_bytes": None}, []),
        # Of an answer that broke, Envoy counts what left for the client and we what came from the backend.
        ({"response_bytes": 0, "response_flags": ["DC"]}, []),
    ],
)
def test_bytes_that_differ_are_a_finding(counted: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    """Envoy's count is held against ours, direction by direction."""
    assert joined(request(1), response(1), access(1, **counted)).members()["integrity"] == expected


@pytest.mark.parametrize(
    ("headers", "encoding", "is_compared"),
    [
        ([], "gzip", False),
        ([["content-encoding", "br"]], "gzip", False),
        ([["content-encoding", "gzip"]], "gzip", True),
        ([["content-encoding", "gzip"]], None, True),
        ([], None, True),
    ],
)
def test_an_answer_that_envoy_has_compressed_is_not_compared(
    headers: list[list[str]], encoding: str | None, is_compared: bool
) -> None:
    """It left for the client in another encoding than it came in."""
    answer = json.loads(response(1))
    answer["response"]["headers"] = headers
    exchange = joined(request(1), encode(answer), access(1, response_bytes=99, encoding=encoding))
    assert bool(exchange.integrity) is is_compared


def test_a_request_that_was_cut_off_is_not_compared() -> None:
    """What Envoy has read and what it has shown us differ there by nature."""
    cut = json.loads(request(1))
    cut["request"] |= {"ended_by": "cancelled", "truncated": True}
    assert joined(encode(cut), response(1), access(1, request_bytes=99)).integrity == []


@pytest.mark.parametrize(
    ("records", "began", "over", "complete"),
    [
        ([], False, False, False),
        ([access(1)], False, False, False),
        ([request(1)], True, False, False),
        ([request(1), access(1)], True, False, False),
        ([request(1), response(1)], True, True, False),
        ([response(1), access(1)], True, True, True),
        ([orphan(), access(1)], True, True, True),
    ],
)
def test_how_far_it_has_come(records: list[bytes], began: bool, over: bool, complete: bool) -> None:
    """Begun with a record of its own, over with a terminal one, complete with Envoy's entry as well."""
    parts = Parts(id_of(1), Path("data"))
    for record in records:
        parts.add(unseal_any(record))
    assert (parts.began, parts.over, parts.complete) == (began, over, complete)


def test_only_the_first_terminal_record_ends_it() -> None:
    """A second one, whatever it says, changes nothing."""
    parts = Parts(id_of(1), Path("data"))
    assert [parts.add(unseal_any(record)) for record in (response(1), response(1, status=500), orphan())] == [
        True,
        False,
        False,
    ]
    assert (parts.exchange().status, parts.exchange().outcome) == (200, "ok")


def test_a_local_answer_of_which_no_request_was_seen() -> None:
    """A filter before the recorder has answered: the entry has the request, and the times begin with it."""
    began = START_NS - 20_000_000
    answer = json.loads(response(1))
    answer |= {"method": None, "path": None, "status": 403, "response_code_details": "rbac_access_denied"}
    answer["response"] |= {"first_byte_ms": 0.0, "last_byte_ms": 1.5, "silence_at_ms": None}
    told: dict[str, Any] = {
        "client": "192.0.2.1:5",
        "authority": "a",
        "scheme": "http",
        "request_id": "r",
        "upstream": None,
    }
    entry = access(1, **told, started_at=timestamp(began), status=403, response_code_details="rbac_access_denied")
    for records in ((encode(answer), entry), (entry, encode(answer))):
        exchange = joined(*records)
        said = exchange.members()
        for name, value in (told | {"method": "POST", "path": "/x", "started_at": timestamp(began)}).items():
            assert said[name] == value, name
        assert (exchange.duration_ms, exchange.outcome) == (1020.0, "local_reply")
        assert present(exchange.response).first_byte_ms == 20.0
        assert present(exchange.response).last_byte_ms == 21.5
        assert exchange.request is None
