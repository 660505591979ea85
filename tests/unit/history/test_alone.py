"""Entries of requests that never became an exchange of the recorder's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exchanges import access as access_of
from support.journals import START_NS, access, request

from extproc.core.records import Request, id_of, of_fields
from extproc.core.times import started_by_id, timestamp
from extproc.history import alone

NO_ROUTE: dict[str, Any] = {"upstream": None, "status": 404, "response_code_details": "route_not_found"}
HUNG: dict[str, Any] = {"upstream": None, "status": 504, "response_code_details": "ext_proc_error_gRPC_error_14{}"}


def entry(number: int | None = None, **more: Any) -> dict[str, Any]:
    """An entry as it is read from a journal."""
    record: dict[str, Any] = json.loads(access(number, **({"request_id": "r"} | NO_ROUTE | more)))
    return record


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (entry(), True),
        (entry(response_code_details="http1.codec_error", request_id=None, method=None, path=""), True),
        (entry(**HUNG), True),
        (entry(status=None, response_code_details="downstream_remote_disconnect"), True),
        (entry(1), False),
        (entry(bypass="health"), False),
        (entry(upstream="10.0.0.7:8000", response_code_details="via_upstream"), False),
        (entry(upstream="10.0.0.7:8000", response_code_details="upstream_reset_before_response_started{x}"), False),
        (entry(failed_open=True), False),
        (entry(response_code_details="extproc_not_recorded"), False),
        (entry(response_code_details=None), False),
        (json.loads(request(1)), False),
    ],
)
def test_what_stands_alone(record: dict[str, Any], expected: bool) -> None:
    """What Envoy ended by itself and the recorder gave no name; not what passed, nor what we refused."""
    read = of_fields(record)
    assert alone.stands_alone(alone.as_own(read)) is expected
    if not expected:
        assert alone.as_own(read) is read


def test_its_id_is_its_own() -> None:
    """The same whenever the entry is read, or written again to another place; another for each entry; of its time."""
    records = [entry(request_id=f"{number}") for number in range(500)]
    ids = [str(id_of(alone.as_own(of_fields(record)))) for record in records]
    assert len(set(ids)) == 500
    elsewhere = records[0] | {"worker": 7, "boot_id": "x", "seq": 9, "crc": "0"}
    assert ids[0] == id_of(alone.as_own(of_fields(elsewhere)))
    assert all(started_by_id(id)[:23] == timestamp(START_NS)[:23] for id in ids)


@given(st.dictionaries(st.sampled_from(sorted(entry())), st.none() | st.text() | st.integers() | st.floats()))
def test_odd_entries(fields: dict[str, Any]) -> None:
    """None makes it raise, and whatever stands alone has an id."""
    own = alone.as_own(of_fields(entry() | fields | {"type": "access", "id": None}))
    assert not alone.stands_alone(own) or started_by_id(str(id_of(own))) is not None


@pytest.mark.parametrize(
    ("record", "more", "expected"),
    [
        (entry(**HUNG), {"request_id": "r"}, True),
        (entry(status=None, response_code_details="downstream_remote_disconnect"), {"request_id": "r"}, True),
        (entry(status=400, response_flags=["DPE"]), {"request_id": "r"}, True),
        (entry(status=400, response_flags=["DPE"]), {"request_id": "q"}, False),
        (entry(status=400, response_flags=["DPE"], method=None), {"request_id": "r"}, False),
        (entry(), {"request_id": "r", "best_effort": True}, True),
        (entry(**HUNG), {"request_id": "q"}, False),
        (entry(**HUNG, request_id=None), {"request_id": None}, False),
        # A client may choose its request id, where Envoy lets it: what Envoy answered unasked stays alone.
        (entry(), {"request_id": "r"}, False),
    ],
)
def test_whose_it_is(record: dict[str, Any], more: dict[str, Any], expected: bool) -> None:
    """That of an exchange with the same request id, where the recorder may have had it without Envoy's knowing."""
    begun = of_fields(json.loads(request(1)) | more)
    assert isinstance(begun, Request)
    assert alone.is_of(access_of(record), begun) is expected


def test_a_line_that_may_be_one() -> None:
    """Told by its first bytes."""
    assert alone.may_be(access(None))
    assert not alone.may_be(access(1))
    assert not alone.may_be(request(1))
