"""One worker process: a server, a journal, one series of segments. `workers.py` starts it and keeps it going.

The supervisor talks to it over pipes:

    stdin    one line, the configuration as JSON; then nothing. Its end means that the supervisor is gone.
    stdout   `failed KIND TEXT`   it could not start; KIND is the name of an exception of `errors.py`
             `ready ADDRESS`      it listens there
             `health JSON`        its named parts, every HEALTH_SECONDS for as long as its loop comes round
             `figures JSON`       what it counts (`figures.py`), about once a second and at the end
    stderr   the log

SIGTERM, SIGINT and SIGHUP drain, as `transport.py` and `_serve` say; a second one waits no longer, and still writes
down all that is known. The exit code is 0 then.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

# The core logs each failed handshake; a port scan must not fill the log. To be set before grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from extproc import logs
from extproc.config import Config
from extproc.errors import ExtprocError
from extproc.journal import recovery
from extproc.journal.live import LiveTable
from extproc.journal.writer import Journal
from extproc.processes import gc, pipes, signals, stdio
from extproc.processes.harden import restrict_process
from extproc.service import ids, redaction_key, server
from extproc.service.health import Health
from extproc.service.processor import Recorder
from extproc.service.sidecar import figures
from extproc.service.sidecar.figures import Figures

if TYPE_CHECKING:
    from extproc.service.transport import Transport

log = logging.getLogger("extproc.service")

HEALTH_SECONDS = 0.2
FIGURES_TURNS = 5
"""The figures go out with every so many looks at the health, when they have changed."""
LOOP_SECONDS = 0.5
"""A loop that has not come round for so long is stuck; the supervisor then hears nothing."""
STALL_SECONDS = 1.5
"""A disk that has been at the same work for so long hangs, as far as /readyz and the metrics go. Envoy is not told:
the requests that wait may still be answered, and others would be refused for a disk that is only slow."""
JOURNAL_SECONDS = 5.0
"""How long the journal may take to write what it has when the worker ends."""


def main() -> int:
    """The process, from its configuration to its exit code."""
    parser = argparse.ArgumentParser(prog="extproc.service.sidecar.worker", description=__doc__)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--again", action="store_true", help="in the place of one that has ended")
    stdio.prepare()
    arguments = parser.parse_args()
    index = arguments.index
    config = Config.from_json(sys.stdin.buffer.readline())
    logs.setup(f"worker {index}", config.log_format)
    restrict_process()
    supervisor = _Supervisor(pipes.claim_stdout())
    try:
        _serve(config, index, supervisor, again=arguments.again)
    except ExtprocError as error:
        supervisor.send("failed", type(error).__name__, str(error))
        return 1
    return 0


class _Supervisor:
    """Who started this process. It may be gone, which ends the worker by another way: the end of stdin."""

    def __init__(self, lines: pipes.Lines) -> None:
        self._lines = lines

    def send(self, *words: str) -> None:
        with contextlib.suppress(OSError):
            self._lines.write(" ".join(words))


def _serve(config: Config, index: int, supervisor: _Supervisor, *, again: bool) -> None:
    boot_id = ids.boot_id()
    journal = Journal(
        config.data_dir,
        worker=index,
        boot_id=boot_id,
        durability=config.durability,
        segment_bytes=config.segment_bytes,
        segment_seconds=config.close_segments_after_seconds,
        free_space_floor_bytes=config.free_space_floor_bytes,
        recover=lambda: recovery.recover(config.data_dir, worker=index),
    )
    journal.start(patient=again)
    recorder = live = None
    try:
        live = _live_table(config.data_dir, index, boot_id)
        recorder = Recorder(config, journal, redaction_key.load(config.data_dir), live)
        recorder.guard.watch()
        health = Health({"journal": lambda: journal.failure is None})
        transport, address = server.start(config, index, recorder.processor, recorder, health)
        _stop_on_signals(transport, config.drain_seconds)
        done = threading.Event()
        _in_background(_stop_with_parent, transport)
        gc.freeze_after_start()
        supervisor.send("ready", address)
        _in_background(_report, supervisor, recorder, journal, health, done)
        transport.run()  # until a signal; the list of the end is in transport.py
        done.set()
    finally:
        journal.close(JOURNAL_SECONDS)
        if live is not None:
            live.close()
        if recorder is not None:
            supervisor.send("figures", figures.of(recorder, journal).to_json())


def _live_table(directory: Path, worker: int, boot_id: str) -> LiveTable | None:
    """Where one can see what is in flight. The recorder does without it where the disk is full."""
    try:
        return LiveTable.create(directory, worker, boot_id)
    except OSError as error:
        log.warning("no table of what is in flight: %s: %s", directory, error.strerror)
        return None


def _stop_on_signals(transport: Transport, grace: float) -> None:
    def stop() -> None:
        nonlocal grace
        transport.stop(grace)
        grace = 0.0

    signals.call(stop)


def _stop_with_parent(transport: Transport) -> None:
    """A new supervisor may start on this directory at once, so there is no waiting."""
    sys.stdin.buffer.read()
    transport.stop(0.0)
    transport.stop(0.0)  # not even for Envoy's last access entries


def _report(
    supervisor: _Supervisor, recorder: Recorder, journal: Journal, health: Health, done: threading.Event
) -> None:
    counted = Figures()
    for turn in itertools.count():
        if done.wait(HEALTH_SECONDS):
            return
        if monotonic() - recorder.ticked_at < LOOP_SECONDS:
            parts = health.parts()
            parts["journal"] &= journal.busy_seconds < STALL_SECONDS
            supervisor.send("health", json.dumps(parts))
        if turn % FIGURES_TURNS == 0 and (now := figures.of(recorder, journal)) != counted:
            counted = now
            supervisor.send("figures", now.to_json())


def _in_background(function: object, *arguments: object) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: everything is on disk, and gRPC's destructors wait for ever for a call that is stuck.
    os._exit(code)
