"""Names of objects, made and taken apart."""

from __future__ import annotations

import pytest

from extproc.fleet.names import Place

PLACE = Place("2026-11-28", "gpu7-5f0c9a1e", "w0-0193c0de-000001")


def test_the_names_are_those_of_the_contract() -> None:
    """Kind, day, host and segment, in the form that engines take for partitions."""
    within = "dt=2026-11-28/host=gpu7-5f0c9a1e/w0-0193c0de-000001"
    assert PLACE.raw == f"v1/raw/{within}.jsonl.zst"
    assert PLACE.exchanges == f"v1/exchanges/{within}.parquet"
    assert [PLACE.pack(), PLACE.pack(2)] == [f"v1/bodies/{within}.pack", f"v1/bodies/{within}.2.pack"]


def test_a_name_is_taken_apart_again() -> None:
    """Into the same place."""
    assert Place.of_raw(PLACE.raw) == PLACE
    assert Place.of_pack(PLACE.pack()) == Place.of_pack(PLACE.pack(2)) == PLACE


@pytest.mark.parametrize(
    "path",
    [
        "v1/raw/dt=2026-11-28/host=x/w0-b-000001.jsonl",
        "v1/raw/dt=2026-11-28/host=../w0-b-000001.jsonl.zst",
        "v1/raw/dt=2026-11-28/host=x/other.jsonl.zst",
        "v1/raw/dt=today/host=x/w0-b-000001.jsonl.zst",
        PLACE.exchanges,
    ],
)
def test_what_is_no_segment_is_passed_over(path: str) -> None:
    """Whatever else somebody has put into the bucket."""
    assert Place.of_raw(path) is None
