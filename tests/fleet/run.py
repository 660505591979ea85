"""Three hosts on one machine that ship to a real S3 while they are killed: `make fleet`.

Run as `python tests/fleet/run.py [EXCHANGES] [MINUTES]`. Each host is the whole stack with a data directory of its own;
the store is SeaweedFS, which the first host reaches through a proxy that fails now and then. What must hold at the end
is in `verdict.py`; the first thing that does not ends the run.
"""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fleet import verdict
from fleet.hosts import Host
from fleet.traffic import Traffic
from support import buckets
from support.buckets import S3, Proxy
from support.commands import PROGRAM
from support.raw import RawBackend

from extproc.fleet.bucket import Bucket

HOSTS = 3
EXCHANGES = 50_000
MINUTES = 20.0
FAULTS = ("503", "lost", "cut", "refused")
FAULTY = 0.2
"""Of the uploads through the proxy."""
_TOLD_SECONDS = 60.0


def main(exchanges: int, minutes: float) -> int:
    """The whole of it. The directory stays where something was wrong."""
    os.environ.update(buckets.ENVIRONMENT)
    root = Path(tempfile.mkdtemp(prefix="extproc-fleet-"))
    print(f"{exchanges:,} exchanges over {HOSTS} hosts in {root}", flush=True)
    with S3(_made(root / "s3")).running() as s3, Proxy(s3.endpoint).running() as proxy, RawBackend() as backend:
        proxy.plan = _fails_now_and_then
        bucket = s3.bucket()
        traffic = Traffic(backend, exchanges, 60 * minutes, HOSTS)
        hosts = [Host(_made(root / f"host{number}"), number, traffic, backend, bucket) for number in range(HOSTS)]
        _live(hosts, traffic, [proxy.endpoint, s3.endpoint, s3.endpoint])
        assert not backend.errors, backend.errors
        for host in hosts:
            _ship_the_rest(host.data_dir, bucket, s3.endpoint)
        try:
            for line in verdict.of(bucket, s3.endpoint, [host.data_dir for host in hosts], traffic, root / "cache"):
                print(f"- {line}", flush=True)
        except verdict.Wrong as error:
            print(f"WRONG: {error}\nWhat there is stays in {root}", flush=True)
            return 1
    subprocess.run(["rm", "-rf", root], check=True)
    return 0


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _fails_now_and_then(method: str, path: str) -> str | None:
    return random.choice(FAULTS) if method == "PUT" and random.random() < FAULTY else None


def _live(hosts: list[Host], traffic: Traffic, endpoints: list[str]) -> None:
    """All hosts side by side, until the traffic is over."""
    began = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(_TOLD_SECONDS):
            print(f"  {len(traffic.got):,} answers after {time.monotonic() - began:.0f} s", flush=True)

    telling = threading.Thread(target=tell)
    telling.start()
    try:
        with ThreadPoolExecutor(len(hosts)) as lives:
            for life in [lives.submit(host.live, to) for host, to in zip(hosts, endpoints, strict=True)]:
                life.result()
    finally:
        done.set()
        telling.join()
    blows = sum((host.blows for host in hosts), collections.Counter[str]())
    told = ", ".join(f"{what} {count}" for what, count in sorted(blows.items()))
    print(f"- {len(traffic.got):,} answers in {time.monotonic() - began:.0f} s; {told}", flush=True)


def _ship_the_rest(directory: Path, bucket: Bucket, endpoint: str) -> None:
    """What the last round of the last stack had no time for, by the command. It must end well."""
    command = [*PROGRAM, "ship", "--to", bucket.url, "--endpoint", endpoint, "--once", "--data-dir", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"- the rest of {directory.parent.name}: {(done.stdout + done.stderr).strip()}", flush=True)
    assert done.returncode == 0, done


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else EXCHANGES, float(given[1]) if given[1:] else MINUTES))
