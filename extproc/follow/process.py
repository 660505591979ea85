"""The follower as a process of its own. The supervisor of `up` and `serve` starts it and keeps it going.

They talk over pipes:

    stdin    one line, the configuration as JSON; then commands, one a line: `metrics`,
             or `openmetrics`. Its end: the supervisor is gone.
    stdout   `failed KIND TEXT`   it could not start; KIND is the name of an exception of `errors.py`
             `ready`
             `state JSON`         once a second: `lag_seconds`, `behind_bytes`, `exchanges`, `given_up`, and the spans
             `metrics N`          the answer to the command: N bytes follow, in the format asked for
    stderr   the log

SIGTERM, SIGINT or SIGHUP ends it within `STOP_SECONDS`, when what it has read has been exported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from extproc import logs
from extproc.config import Config
from extproc.errors import ExtprocError
from extproc.follow import checkpoint
from extproc.follow.follower import Consumer, Follower
from extproc.follow.incidents import Incidents
from extproc.follow.reports import Reports
from extproc.history.index.indexer import Indexer
from extproc.incidents import backends, webhook
from extproc.incidents.indexed import Bodies
from extproc.incidents.kept import FILE_NAME, Kept
from extproc.incidents.prober import Prober
from extproc.incidents.reporter import Reporter
from extproc.processes import gc, pipes, signals, stdio
from extproc.processes.harden import restrict_process
from extproc.quarantine.entries import Mode
from extproc.telemetry import otlp
from extproc.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from extproc.telemetry.tracing import Tracing

IDLE_SECONDS: Final = 0.1
STATE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 5.0
OVERLOAD_SECONDS: Final = 5.0
"""So far behind, spans are sampled down: they cost the most, and are missed the least."""
CATCH_UP_SECONDS: Final = 120.0
"""What befell a backend so long before the follower was ended may not be reported yet."""
NICENESS: Final = 10
_STEPS_DOWN: Final = 0.5


def main() -> int:
    """The process, from its configuration to its exit code."""
    stdio.prepare()
    config = Config.from_json(sys.stdin.buffer.readline())
    logs.setup("follower", config.log_format)
    restrict_process()
    os.nice(NICENESS)  # the data path has the first claim on the processor
    out = _Out(pipes.claim_stdout())
    try:
        with checkpoint.locked(config.data_dir) as kept:
            tracing = _tracing(config)
            follower, metrics = made(config, tracing, kept)
            stopping = threading.Event()
            signals.call(stopping.set)
            threading.Thread(target=_listen, args=(metrics, out, stopping), daemon=True).start()
            gc.freeze_after_start()
            out.line("ready")
            follow(follower, tracing, stopping, lambda state: out.line(f"state {json.dumps(state)}"))
            follower.finish()  # the workers are gone, so that no access entry can come any more
            end(follower, tracing)
    except ExtprocError as error:
        out.line(f"failed {type(error).__name__} {error}")
        return 1
    return 0


def _tracing(config: Config) -> Tracing | None:
    """What exports spans, where a collector is named. Elsewhere OpenTelemetry and gRPC are not loaded: they are half of
    the time that the start takes, and of the memory."""
    if otlp.endpoint(config, os.environ) is None:
        return None
    from extproc.telemetry.tracing import Tracing  # noqa: PLC0415 - as the docstring says

    return Tracing.create(config, os.environ)


def made(config: Config, tracing: Tracing | None, kept: Path) -> tuple[Follower, Metrics]:
    """The follower of the data directory, and the consumer that counts; the other one is `tracing`."""
    metrics = Metrics(config.metric_models, os.environ, tracing)
    consumers: list[Consumer] = [metrics] if tracing is None else [metrics, tracing]
    keep_bodies = tracing is not None and tracing.captures_content
    index = Indexer(config.data_dir, reader=Bodies()) if config.index else None
    watcher = watching(config, metrics, tracing, kept)
    return Follower(config.data_dir, consumers, kept, keep_bodies=keep_bodies, index=index, watcher=watcher), metrics


def watching(config: Config, metrics: Metrics, tracing: Tracing | None, position: Path) -> Incidents:
    """The consumer that finds incidents, and who hears of them. `position`: the follower's checkpoint."""
    kept = Kept(position.with_name(FILE_NAME), time.time())
    secret = webhook.secret(config.webhook_secret_file, os.environ)
    hook = None if config.webhook_url is None else webhook.Webhook(config.webhook_url, secret)
    mode = None if config.quarantine_repeats == "off" else Mode(config.quarantine_repeats)
    reports = Reports(config.data_dir, kept, metrics, tracing, hook, redacts=config.webhook_redact, mode=mode)
    try:
        left_at: float | None = position.stat().st_mtime - CATCH_UP_SECONDS
    except FileNotFoundError:
        left_at = None
    prober = None
    if config.probe_seconds:
        starts = backends.Kept(position.with_name(backends.FILE_NAME), config.probe_seconds)
        prober = Prober(starts, config.probe_seconds)
    return Incidents(config.data_dir, Reporter(config.data_dir, kept, reports, left_at), reports, prober)


def follow(
    follower: Follower, tracing: Tracing | None, stopping: threading.Event, send: Callable[[dict[str, Any]], None]
) -> None:
    """Follow until told to stop, then read what is there and let it be exported. `tell` hears the state each second."""
    state_at = 0.0
    while not stopping.is_set():
        more = follower.step()
        now = time.monotonic()
        if now >= state_at:
            state_at = now + STATE_SECONDS
            adapt(follower, tracing)
            send(state(follower, tracing))
        if not more:
            stopping.wait(IDLE_SECONDS)
    until = time.monotonic() + STOP_SECONDS / 2
    while follower.step() and time.monotonic() < until:
        pass


def end(follower: Follower, tracing: Tracing | None) -> None:
    """The last of it: what waits for the collector, and the position."""
    follower.close(STOP_SECONDS / 2)
    if tracing is not None:
        tracing.close(0.5)


def adapt(follower: Follower, tracing: Tracing | None) -> None:
    """Fewer spans while it is far behind, all of them again when it has caught up."""
    if tracing is None:
        return
    if follower.lag_seconds > OVERLOAD_SECONDS:
        tracing.sample_ratio = max(0.01, tracing.sample_ratio * _STEPS_DOWN)
    elif follower.lag_seconds < OVERLOAD_SECONDS / 2:
        tracing.sample_ratio = min(1.0, tracing.sample_ratio / _STEPS_DOWN)


def state(follower: Follower, tracing: Tracing | None) -> dict[str, Any]:
    """What the supervisor is told."""
    return {
        "lag_seconds": round(follower.lag_seconds, 3),
        "behind_bytes": follower.behind_bytes(),
        "exchanges": follower.exchanges,
        "given_up": follower.given_up,
        "index_behind_bytes": 0 if follower.index is None else follower.index.behind_bytes,
        "index_failures": 0 if follower.index is None else follower.index.failures,
        "spans_exported": 0 if tracing is None else tracing.exported,
        "spans_dropped": 0 if tracing is None else tracing.dropped + tracing.failed,
        "spans_unsampled": 0 if tracing is None else tracing.unsampled,
    }


class _Out:
    """The supervisor, to be told things by several threads."""

    def __init__(self, lines: pipes.Lines) -> None:
        self._lines = lines

    def line(self, text: str, more: bytes = b"") -> None:
        try:
            self._lines.write(text, more)
        except OSError:
            os._exit(0)  # nobody is there any more, and nothing is lost: the position is kept


def _listen(metrics: Metrics, out: _Out, stopping: threading.Event) -> None:
    for command in sys.stdin.buffer:
        if command.strip() in (b"metrics", b"openmetrics"):
            text = metrics.text(open_metrics=command.strip() == b"openmetrics")
            out.line(f"metrics {len(text)}", text)
    stopping.set()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the exporter's threads may be in a call that is stuck
