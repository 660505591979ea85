"""Shipping as a process beside the sidecar."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from pathlib import Path

import pytest
from support import buckets
from support.http_servers import trickling
from support.journals import START_NS, append, journal, request, response

from extproc.config import Config
from extproc.errors import BucketError
from extproc.fleet import view
from extproc.fleet.bucket import Bucket, directory_url
from extproc.fleet.process import Shipping
from extproc.fleet.ship import Shipper
from extproc.fleet.span import EVERYTHING
from extproc.journal.lock import lock_directory
from extproc.service.sidecar.follower import SHIPPER


@pytest.mark.parametrize("end", ["signal", "input"])
def test_a_last_round_ships_what_was_closed_just_now(tmp_path: Path, end: str) -> None:
    """The supervisor still holds the directory then, and nothing more will come."""
    data, url = tmp_path / "data", directory_url(tmp_path / "bucket")
    data.mkdir(mode=0o700)
    config = Config(data_dir=data, ship_to=url)
    started = subprocess.Popen([*SHIPPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with lock_directory(data), started as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.to_json() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        with journal(data, clock=lambda: START_NS) as writer:
            append(writer, request(1), response(1))
        if end == "signal":
            process.send_signal(signal.SIGTERM)
            said = process.stdout.read()
            process.stdin.close()
        else:
            process.stdin.close()
            said = process.stdout.read()
        assert process.wait() == 0
    assert len(list(Bucket.open(url).objects("v1/raw"))) == 1
    state = json.loads(said.splitlines()[-1].removeprefix("state "))
    assert state.keys() == {"lag_seconds", "behind_bytes", "objects", "failures"}


def test_a_bucket_that_is_none_is_said(tmp_path: Path) -> None:
    """And ends the process, which is started again, with pauses."""
    config = Config(data_dir=tmp_path, ship_to="ftp://nowhere")
    done = subprocess.run([*SHIPPER], input=config.to_json() + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("failed ConfigError ftp://nowhere: expected s3://")


class _Away(Bucket):
    """A bucket that refuses everything until it is back."""

    back = False

    def create(self, path: str, data: bytes) -> bool:
        if not self.back:
            raise BucketError(f"{path}: 507 Insufficient Storage")
        return super().create(path, data)


def test_a_bucket_that_is_away_for_long_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hours of it are one line, failures and a lag that grows; then another line, and no lag."""
    data, bucket = tmp_path / "data", _Away.open(directory_url(tmp_path / "bucket"))
    data.mkdir(mode=0o700)
    with journal(data, clock=lambda: START_NS) as writer:
        append(writer, request(1), response(1))
    now = next(iter((data / "segments").iterdir())).stat().st_mtime
    shipping = Shipping(Shipper(data, bucket, clock=lambda: now))
    lags = []
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            now += 60
            shipping.round()
            lags.append(json.loads(shipping.state())["lag_seconds"])
        bucket.back = True
        shipping.round()
        shipping.round()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "507 Insufficient Storage" in caplog.text
    assert lags == [60.0 * number for number in range(1, 101)]
    state = json.loads(shipping.state())
    assert (state["lag_seconds"], state["behind_bytes"], state["failures"], state["objects"]) == (0, 0, 100, 2)


def test_a_bucket_that_never_ends_an_answer_costs_lag_and_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round ends when the time for one request is over; the next ones are no further line, and a question that is
    asked of the bucket ends with an error."""
    for name, value in buckets.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with journal(data, clock=lambda: START_NS) as writer:
        append(writer, request(1), response(1))
    now = next(iter((data / "segments").iterdir())).stat().st_mtime + 60
    with trickling() as port:
        bucket = Bucket.open("s3://tests/part", f"http://127.0.0.1:{port}", retries=0, request_seconds=0.2)
        shipping = Shipping(Shipper(data, bucket, clock=lambda: now))
        with caplog.at_level(logging.INFO):
            shipping.round()
            shipping.round(last=True)
        with (
            pytest.raises(BucketError),
            view.opened(bucket, EVERYTHING, bodies=False, cache=tmp_path / "cache"),
        ):
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    state = json.loads(shipping.state())
    assert (state["lag_seconds"], state["failures"], state["objects"]) == (60, 2, 0)
    assert not list((tmp_path / "cache").glob("view-*"))
