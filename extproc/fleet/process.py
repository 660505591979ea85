"""Shipping as a process of its own: a part of `serve` and `up` where `ship_to` is set. Traffic never depends on it.

It talks with the supervisor as the follower does (`follow/process.py`): `ready`, `state JSON` once a second, `failed`.
The state has `lag_seconds`, `behind_bytes`, `objects` and `failures`. SIGTERM, or the end of its input, ends it after
one more round: the workers have closed their last segments by then.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import Final

from extproc import logs
from extproc.config import Config
from extproc.errors import ExtprocError
from extproc.fleet.bucket import Bucket
from extproc.fleet.ship import Shipper
from extproc.processes import pipes, signals, stdio
from extproc.processes.harden import restrict_process

EVERY_SECONDS: Final = 60.0
STATE_SECONDS: Final = 1.0
NICENESS: Final = 10

log = logging.getLogger("extproc.fleet")


def main() -> int:
    """The process, from its configuration to its exit code."""
    stdio.prepare()
    config = Config.from_json(sys.stdin.buffer.readline())
    logs.setup("shipper", config.log_format)
    restrict_process()
    os.nice(NICENESS)  # the data path has the first claim on the processor
    out = pipes.claim_stdout()
    stopping = threading.Event()
    try:
        assert config.ship_to is not None
        shipping = Shipping(Shipper(config.data_dir, Bucket.open(config.ship_to), stopping=stopping.is_set))
    except ExtprocError as error:
        out.write(f"failed {type(error).__name__} {error}")
        return 1
    signals.call(stopping.set)
    threading.Thread(target=_stop_with_parent, args=(stopping,), daemon=True).start()
    out.write("ready")
    rounds = threading.Thread(target=shipping.run, args=(stopping,), daemon=True)
    rounds.start()
    while rounds.is_alive():
        out.write(f"state {shipping.state()}")
        rounds.join(STATE_SECONDS)
    return 0


class Shipping:
    """Round after round, counted. What stands in the way is one line in the log, until it is something else."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper
        self._objects = self._failures = 0
        self._told: list[str] = []

    def run(self, stopping: threading.Event) -> None:
        """Until told to stop, and once more then."""
        while not stopping.is_set():
            self.round()
            stopping.wait(EVERY_SECONDS)
        self.round(last=True)

    def round(self, *, last: bool = False) -> None:
        """One round."""
        try:
            done = self._shipper.round(last=last)
        except ExtprocError as error:
            errors = [str(error)]
            self._failures += 1
        else:
            errors = done.errors
            self._objects += done.objects
            self._failures += done.failures
        if errors != self._told:
            for line in errors:
                log.warning("shipping: %s", line)
            if not errors:
                log.info("shipping goes on")
        self._told = errors

    def state(self) -> str:
        """What the supervisor is told."""
        shipper = self._shipper
        lag = {"lag_seconds": round(shipper.lag_seconds, 3), "behind_bytes": shipper.behind_bytes}
        return json.dumps(lag | {"objects": self._objects, "failures": self._failures})


def _stop_with_parent(stopping: threading.Event) -> None:
    sys.stdin.buffer.read()
    stopping.set()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a request may hang, and nothing is lost with it
