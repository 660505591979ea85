"""Segments in a real S3 (SeaweedFS), through faults, and read there by a real engine (DuckDB)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import buckets, bulk, duck
from support.buckets import S3, Proxy
from support.commands import PROGRAM
from support.stack import RunningStack, eventually

from extproc.fleet import view
from extproc.fleet.bucket import Bucket
from extproc.fleet.ship import Shipper
from extproc.fleet.span import EVERYTHING
from extproc.history import bodies, reader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

EXCHANGES = 400


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in buckets.ENVIRONMENT.items():
            patch.setenv(name, value)
        with S3(tmp_path_factory.mktemp("s3")).running() as running:
            yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal of two workers and two boots, of which one died."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    bulk.write(directory, EXCHANGES, end_ns=time.time_ns() - 60 * bulk.SECOND)
    return directory


def local(data: Path) -> dict[str, bytes]:
    """The closed segments by their names."""
    return {path.name: path.read_bytes() for path in (data / "segments").glob("*.zst")}


def shipped(bucket: Bucket) -> dict[str, bytes]:
    """The same of a bucket."""
    return {each.path.rpartition("/")[2]: bucket.read(each.path) for each in bucket.objects("v1/raw")}


def ship(bucket: Bucket, data: Path, endpoint: str) -> subprocess.Popen[str]:
    """`extproc ship --once` as a process of its own."""
    return subprocess.Popen(
        [*PROGRAM, "ship", "--to", bucket.url, "--endpoint", endpoint, "--once", "--data-dir", str(data)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_processes_ship_the_same_segments(s3: S3, data: Path) -> None:
    """Both end well, and every object is there once, as it is here."""
    bucket = s3.bucket()
    both = [ship(bucket, data, s3.endpoint) for _ in range(2)]
    said = [each.communicate() for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert shipped(bucket) == local(data) != {}
    made = [int(out.split()[3]) for out, _ in said]
    assert sum(made) == len(list(bucket.objects("v1")))


@pytest.mark.parametrize("fault", ["503", "507", "403", "lost", "cut", "refused"])
def test_a_store_that_fails_now_and_then_loses_nothing(s3: S3, data: Path, fault: str) -> None:
    """Bursts of 503, a quota that is reached, an answer that is lost, half an upload: in the end all is there once."""
    with Proxy(s3.endpoint).running() as proxy:
        bucket = s3.bucket(proxy.endpoint, retries=0)
        puts = 0

        def plan(method: str, _: str) -> str | None:
            nonlocal puts
            puts += method == "PUT"
            return fault if method == "PUT" and puts % 3 == 1 else None

        proxy.plan = plan
        shipper, rounds = Shipper(data, bucket), 0
        while shipper.round().errors:
            rounds += 1
            assert rounds < 20, proxy.seen
        assert rounds > 1
        assert shipped(bucket) == local(data) != {}


def test_a_store_that_is_away_is_lag_and_one_line(s3: S3, data: Path) -> None:
    """The command goes on, says so once, and ships when the store is back."""
    with Proxy(s3.endpoint).running() as proxy:
        bucket = s3.bucket()
        back = threading.Event()
        proxy.plan = lambda method, path: None if back.is_set() else "refused"
        command = [*PROGRAM, "ship", "--to", bucket.url, "--endpoint", proxy.endpoint, "--every", "100ms"]
        process = subprocess.Popen(
            [*command, "--data-dir", str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert "error sending request" in process.stderr.readline()
            back.set()
            assert "segments shipped" in process.stdout.readline()
        finally:
            process.terminate()
            process.communicate()
    assert shipped(bucket) == local(data) != {}


def test_a_stack_ships_its_last_segment_as_it_ends(s3: S3, tmp_path: Path) -> None:
    """`ship_to` is enough: what passed the real Envoy is in the bucket, large bodies too, when the stack has ended."""
    bucket = s3.bucket()
    small = {"model": "demo", "messages": [{"role": "user", "content": "short"}]}
    large = {"model": "demo", "messages": [{"role": "user", "content": "long " * 20_000}]}
    settings = {**buckets.ENVIRONMENT, "AWS_ENDPOINT_URL": s3.endpoint, "ship_to": bucket.url}
    with RunningStack(tmp_path / "stack", **settings) as stack:
        for body in (small, large):
            content = json.dumps(body).encode()
            headers = {"content-type": "application/json"}
            asked = urllib.request.Request(f"{stack.url}/v1/chat/completions", content, headers)
            with urllib.request.urlopen(asked) as answer:
                answer.read()
        scraped = f"{stack.admin}/metrics"
        eventually(lambda: "extproc_ship_up 1.0" in urllib.request.urlopen(scraped).read().decode(), "the shipper")
        assert stack.stop() == 0
    here = list(reader.exchanges([stack.data_dir]))
    assert len(here) == 2
    with view.opened(bucket, EVERYTHING, bodies=True, cache=tmp_path / "cache") as directories:
        there = list(reader.exchanges(directories))
        assert [each.members() for each in there] == [each.members() for each in here]
        for direction in ("request", "response"):
            assert [bodies.whole(each, direction) for each in there] == [bodies.whole(each, direction) for each in here]
    assert json.dumps(large).encode() in [bodies.whole(each, "request") for each in here]
    assert len(list(bucket.objects("v1/bodies"))) == 1


def test_a_store_that_does_not_answer_is_lag_and_no_more(s3: S3, data: Path) -> None:
    """Requests are answered and recorded meanwhile, and the metric tells; when it answers there is no lag."""
    with Proxy(s3.endpoint).running() as proxy:
        bucket, answering = s3.bucket(), threading.Event()

        def plan(method: str, path: str) -> str | None:
            answering.wait(100)
            return None

        proxy.plan = plan
        for path in (data / "segments").iterdir():
            os.utime(path, (time.time(), time.time() - 100))  # nothing more is expected of them
        settings = {**buckets.ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.endpoint, "ship_to": bucket.url}
        with RunningStack(data.parent, **settings) as stack:

            def lag() -> float:
                scraped = urllib.request.urlopen(f"{stack.admin}/metrics").read().decode()
                return float(re.findall(r"^extproc_ship_lag_seconds (\S+)$", scraped, re.MULTILINE)[0])

            eventually(lambda: proxy.seen, "an upload")
            eventually(lambda: lag() >= 100, "the lag")
            with urllib.request.urlopen(f"{stack.url}/v1/models") as answer:
                assert answer.status == 200
            with urllib.request.urlopen(f"{stack.admin}/readyz") as answer:
                assert answer.status == 200
            answering.set()
            assert stack.stop() == 0
        assert shipped(bucket) == local(data) != {}


def test_an_engine_counts_what_the_hosts_count(s3: S3, data: Path, tmp_path: Path) -> None:
    """Two hosts, one of which has its clock a few hours ahead; DuckDB reads both from the bucket."""
    ahead = tmp_path / "ahead"
    ahead.mkdir(mode=0o700)
    bulk.write(ahead, EXCHANGES // 2, end_ns=time.time_ns() + 5 * 3600 * bulk.SECOND, seed=2)
    bucket = s3.bucket()
    counts = {}
    for directory in (data, ahead):
        assert Shipper(directory, bucket).round().errors == []
        closed = {path.name.partition(".")[0] for path in (directory / "segments").glob("*.zst")}
        exchanges = (each for each in reader.exchanges([directory]) if not each.in_flight)
        host = (directory / "host").read_text().strip()
        counts[host] = sum(f"w{each.worker}-{each.boot_id}-000001" in closed for each in exchanges)
    counting = f"SELECT host, count(DISTINCT id), count(*) FROM {duck.rows_of(bucket.url)} GROUP BY host"
    rows = duck.on_s3(s3.endpoint).execute(counting).fetchall()
    assert {host: distinct for host, distinct, _ in rows} == counts
    assert all(distinct == every for _, distinct, every in rows)
