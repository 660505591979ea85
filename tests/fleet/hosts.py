"""A host of the fleet: one stack after another on the same data directory, hit while it ships.

    host = Host(directory, number, traffic, bucket, endpoint)
    host.live()        # until the traffic is over; then a last stack, which ends in order

The shipper, workers, Envoy and the supervisor are killed; the shipper is made to stand still, too. Blows at the shipper
fall while it is at it, as the lock on its directory says.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from fleet.traffic import Traffic
from support import buckets
from support.raw import RawBackend
from support.stack import RunningStack, eventually, is_running

from extproc.fleet.bucket import Bucket

SEGMENT_SECONDS = 10
"""Instead of five minutes: the more segments, the more there is to hit."""
ROUND_SECONDS = 20.0
"""So long a blow waits at most for the shipper to be at it."""
MOMENT_SECONDS = 0.6
"""It falls at a random moment within this time after that."""
PAUSES = (0.3, 3.0)
_KILLS_OF_SHIPPER = 8
_KILLS_OF_WORKERS = 2


class Host:
    """One host. `blows` counts what has happened to it."""

    def __init__(self, directory: Path, number: int, traffic: Traffic, backend: RawBackend, bucket: Bucket) -> None:
        self.data_dir = directory / "data"
        self.blows: collections.Counter[str] = collections.Counter()
        self._directory = directory
        self._traffic = traffic
        self._client = traffic.client()
        self._backend = backend
        self._bucket = bucket
        self._chance = random.Random(number)
        self._over = threading.Event()

    def live(self, endpoint: str) -> None:
        """From the first stack to the last. `endpoint`: of the store."""
        arguments = ("--backend", self._backend.url, "--workers", "2", "--envoy-concurrency", "1")
        settings = {
            **buckets.ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint, "ship_to": self._bucket.url,
            "segment_seconds": SEGMENT_SECONDS, "retention_after_ship": "true",
        }  # fmt: skip
        begun = False
        try:
            while not self._traffic.is_over:
                with RunningStack(self._directory, *arguments, **settings) as stack:
                    self._client.port = stack.port
                    if not begun:
                        self._client.start()
                        begun = True
                    self._life(stack)
        finally:
            if begun:
                self._client.stop()
        with RunningStack(self._directory, *arguments, **settings) as stack:  # recovers what the last one left
            assert stack.stop() == 0, stack.stderr()

    def _life(self, stack: RunningStack) -> None:
        """One stack, until something ends it, or the traffic is over."""
        for blow in self._plan():
            what, whom = blow.split()
            if whom == "shipper":
                self._wait_for(ROUND_SECONDS)
            self._over.wait(self._chance.random() * MOMENT_SECONDS)
            if self._traffic.is_over:
                return
            self._strike(stack, what, whom)
            self.blows[blow] += 1

    def _plan(self) -> Iterator[str]:
        blows = ["kill shipper"] * _KILLS_OF_SHIPPER + ["kill worker"] * _KILLS_OF_WORKERS + ["pause shipper"]
        self._chance.shuffle(blows)
        yield from blows
        yield self._chance.choice(["kill envoy", "kill supervisor"])

    def _wait_for(self, seconds: float) -> None:
        """Until the shipper is at it, but not for longer."""
        for _ in range(int(seconds / 0.02)):
            if self._traffic.is_over or _is_locked(self.data_dir / "ship" / "lock"):
                return
            self._over.wait(0.02)

    def _strike(self, stack: RunningStack, what: str, whom: str) -> None:
        index = self._chance.randrange(2)
        pid = eventually(lambda: stack.process_of(whom, index), f"a running {whom}")
        if what == "pause":
            os.kill(pid, signal.SIGSTOP)
            self._over.wait(self._chance.choice(PAUSES))
            os.kill(pid, signal.SIGCONT)
            return
        os.kill(pid, signal.SIGKILL)
        if whom in ("envoy", "supervisor"):
            stack.process.wait(60)
        else:
            eventually(lambda: not is_running(pid), f"the end of the {whom}")


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file, by the kernel's own list: to try it would be in the way."""
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return False
    return any(line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())
