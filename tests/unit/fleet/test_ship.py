"""Closed segments reach the bucket, each whole and each once, wherever a process is cut off."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from support import journals
from support.journals import START_NS, access, append, id_of, journal, request, response

from extproc.core.effects import Effect, Spool, SpoolEnd
from extproc.core.events import Direction
from extproc.errors import BucketError, Conflict
from extproc.fleet import pack
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.ship import Done, Shipper
from extproc.journal import retention, shipped


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with four closed segments: nine exchanges, one of which spans two, and one large body."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    with journal(directory, segment_bytes=3500, clock=lambda: START_NS) as writer:
        append(writer, request(0))
        for number in range(1, 4):
            append(writer, request(number), response(number), access(number))
        append(writer, response(0), access(0), access(None, request_id="other", upstream=None, **REFUSED))
        body = b"large" * 20_000
        spooled: list[Effect] = [Spool(id_of(4), Direction.REQUEST, [body]), SpoolEnd(id_of(4), Direction.REQUEST)]
        assert journals.write(writer, *spooled, journals.appended(request(4, body, file=True))) is None
        append(writer, response(4), access(4))
        for number in range(5, 9):
            append(writer, request(number), response(number), access(number))
    return directory


REFUSED: dict[str, Any] = {"response_code_details": "route_not_found", "status": 404, "cluster": None}


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    """A directory as a bucket."""
    return Bucket.open(directory_url(tmp_path / "bucket"))


def objects(bucket: Bucket, prefix: str = "v1") -> dict[str, bytes]:
    """All that is in a bucket."""
    return {each.path: bucket.read(each.path) for each in bucket.objects(prefix)}


def rows(bucket: Bucket) -> list[dict[str, Any]]:
    """All rows of all Parquet files."""
    found: list[dict[str, Any]] = []
    for path, content in objects(bucket, "v1/exchanges").items():
        table = parquet.ParquetFile(_file(content)).read()
        found += [row | {"path_of": path} for row in table.to_pylist()]
    return found


def _file(content: bytes) -> Any:
    return pyarrow.BufferReader(content)


def test_every_exchange_is_there_once(data: Path, bucket: Bucket) -> None:
    """Each in the row file of the segment with its end; the segments are there byte for byte, the bodies in packs."""
    done = Shipper(data, bucket).round()
    assert (done.failures, done.errors, done.unfound) == (0, [], 0)
    local = {path.name: path.read_bytes() for path in (data / "segments").iterdir()}
    raw = {path.rpartition("/")[2]: content for path, content in objects(bucket, "v1/raw").items()}
    assert len(local) == done.segments > 3
    assert raw == local
    found = rows(bucket)
    counted = Counter(row["id"] for row in found)
    assert {id_of(number) for number in range(9)} < set(counted)
    assert set(counted.values()) == {1}
    assert len(counted) == 10  # and the one that Envoy alone has seen
    assert all(row["segment"] in row["path_of"] for row in found)
    (large,) = (row for row in found if row["request_pack"] is not None)
    assert large["id"] == id_of(4)
    (packed,) = objects(bucket, "v1/bodies").values()
    entry = pack.table_of(packed)[f"{id_of(4)}.request"]
    assert (large["request_pack_offset"], large["request_pack_length"]) == (entry.offset, entry.length)
    assert pack.body(packed, entry) == b"large" * 20_000


def test_a_second_round_does_nothing(data: Path, bucket: Bucket) -> None:
    """What is there is known; without the knowledge it is compared, and found to be the same."""
    Shipper(data, bucket).round()
    before = objects(bucket)
    assert Shipper(data, bucket).round() == Done()
    shutil.rmtree(data / "ship")
    again = Shipper(data, bucket).round()
    assert (again.segments, again.objects, again.failures) == (len(list((data / "segments").iterdir())), 0, 0)
    assert objects(bucket) == before


class _CutOff(BaseException):
    """Ends a round where it is, as SIGKILL would."""


def test_a_round_that_is_cut_off_anywhere_is_repeated(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    """At every step: the next round goes on, and what is in the bucket then is what one round would have put there."""
    steps: list[str] = []
    Shipper(data, bucket, report=steps.append).round()
    right = objects(bucket)
    assert len(steps) > 12
    for cut in range(len(steps)):
        copy, other = tmp_path / f"data-{cut}", Bucket.open(directory_url(tmp_path / f"bucket-{cut}"))
        shutil.copytree(data, copy)
        shutil.rmtree(copy / "ship")
        left = cut

        def step(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise _CutOff

        with pytest.raises(_CutOff):
            Shipper(copy, other, report=step).round()
        assert Shipper(copy, other).round().errors == []
        assert objects(other) == right
        assert sorted(path.suffix for path in (copy / "ship").iterdir() if path.name != "lock") == [".json"] * len(
            list((copy / "segments").iterdir())
        )


def test_rows_that_were_made_are_sent_again_as_they_were(data: Path, bucket: Bucket) -> None:
    """What comes to the journal between two attempts changes nothing of what the first one has made."""

    def cut(step: str) -> None:
        if step.startswith("put v1/raw"):
            raise _CutOff

    with pytest.raises(_CutOff):
        Shipper(data, bucket, report=cut).round()
    before = objects(bucket, "v1/exchanges")
    with journal(data, worker=1, boot_id="b2") as writer:
        append(writer, access(1, response_flags=["DC"]), access(2, response_flags=["DC"]))
    assert Shipper(data, bucket).round().errors == []
    assert before.items() <= objects(bucket, "v1/exchanges").items()


def test_something_else_under_a_name_is_left_alone(data: Path, bucket: Bucket) -> None:
    """It is told and counted, the others are shipped, and it is not overwritten."""
    Shipper(data, bucket).round()
    (path, *others) = objects(bucket, "v1/raw")
    bucket.replace(path, b"something else", None)
    shutil.rmtree(data / "ship")
    done = Shipper(data, bucket).round()
    assert (done.failures, done.segments) == (1, len(others))
    assert "nothing is overwritten" in done.errors[0]
    assert bucket.read(path) == b"something else"
    with pytest.raises(Conflict):
        bucket.create(path, b"a third")


class _Dead(Bucket):
    """A bucket that takes so many objects, and no more."""

    room = 0

    def create(self, path: str, data: bytes) -> bool:
        if self.room == 0:
            raise BucketError(f"{path}: out of order")
        self.room -= 1
        return super().create(path, data)


def test_a_bucket_that_is_out_of_order_costs_lag_and_a_line(data: Path, tmp_path: Path) -> None:
    """The round ends with one error, and says how far behind the bucket is; the next one goes on from there."""
    bucket = _Dead.open(directory_url(tmp_path / "bucket"))
    now = max(path.stat().st_mtime for path in (data / "segments").iterdir()) + 100
    shipper = Shipper(data, bucket, clock=lambda: now)
    done = shipper.round()
    assert (done.segments, done.failures, len(done.errors)) == (0, 1, 1)
    assert shipper.lag_seconds >= 100
    assert shipper.behind_bytes == sum(path.stat().st_size for path in (data / "segments").iterdir())
    bucket.room = 1000
    assert shipper.round().errors == []
    assert (shipper.lag_seconds, shipper.behind_bytes) == (0, 0)


def test_what_is_open_or_not_settled_stays(data: Path, bucket: Bucket) -> None:
    """The segment that is being written is not shipped, nor, beside a sidecar, one of which records may still come."""
    with journal(data, boot_id="b2") as writer:
        append(writer, request(20), response(20))
        Shipper(data, bucket).round()
        assert not any("b2" in path for path in objects(bucket))
    Shipper(data, bucket).round()
    assert any("b2" in path for path in objects(bucket))


def test_the_name_of_the_host_stays(data: Path, bucket: Bucket) -> None:
    """It is a file of the directory, made once; another directory on the same machine has another name."""
    Shipper(data, bucket).round()
    name = (data / "host").read_text()
    Shipper(data, bucket).round()
    assert (data / "host").read_text() == name
    assert all(f"/host={name.strip()}/" in path for path in objects(bucket))


def test_retention_waits_for_the_shipping_but_not_beyond_the_disk(data: Path, bucket: Bucket) -> None:
    """With `may_go` nothing goes by age or number that is not in the bucket; by size it goes all the same."""

    retention.compress_closed(data)
    full = data.with_name("full")
    shutil.copytree(data, full)
    limits: dict[str, Any] = {"now_ns": 2**62, "may_go": lambda name: shipped.is_shipped(data, name.stem)}
    assert retention.apply(data, days=1, segments=1, bytes=0, **limits).deleted == []
    Shipper(data, bucket).round()
    assert retention.apply(data, days=1, segments=1, bytes=0, **limits).deleted != []
    beyond: dict[str, Any] = {"now_ns": 2**62, "may_go": lambda name: shipped.is_shipped(full, name.stem)}
    assert retention.apply(full, days=0, segments=0, bytes=1, **beyond).deleted != []
