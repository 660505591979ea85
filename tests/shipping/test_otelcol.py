"""The recipe for OpenTelemetry's Collector in docs/log-shipping.md, run by a real Collector: `make test-shipping`.

It is built from its Go modules once, into the tests' cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support import jaeger
from support.journals import append, journal, request, response
from support.stack import end, eventually

MODULE = Path(__file__).parent / "otelcol"

pytestmark = [
    pytest.mark.skipif(os.environ.get("EXTPROC_TEST_SHIPPING") is None, reason="needs minutes: make test-shipping"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def collector() -> Path:
    """The program, built where this module was not built before."""
    sums = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in ("go.sum", "main.go"))).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc-tests"
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"otelcol-{sums}"
    go = jaeger.go()
    assert go is not None, "needs Go"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            subprocess.run([go, "build", "-mod=readonly", "-o", program, "."], cwd=MODULE, check=True)
    return program


@pytest.fixture
def recipe(checkout: Path, tmp_path: Path) -> Path:
    """The recipe, with this test's directories in the place of the system's."""
    text = (checkout / "docs" / "log-shipping.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?file_log.*?)```", text, re.DOTALL)
    places = {"/var/lib/extproc": "data", "/var/lib/otelcol": "state", "/var/log/records.json": "records.json"}
    for place, here in places.items():
        assert place in shown
        shown = shown.replace(place, str(tmp_path / here))
    quiet = yaml.safe_load(shown)
    quiet["service"]["telemetry"] = {"metrics": {"level": "none"}}  # which would listen on a port of its own
    for name in ("data", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    path = tmp_path / "otelcol.yaml"
    path.write_text(yaml.safe_dump(quiet))
    return path


@contextmanager
def running(program: Path, recipe: Path) -> Iterator[None]:
    """The Collector, for a while."""
    with (recipe.parent / "otelcol.log").open("ab") as log:
        process = subprocess.Popen([program, "--config", recipe], stdout=log, stderr=log)
    try:
        yield
    finally:
        end(process, signal.SIGTERM)


def written(directory: Path) -> set[str]:
    """Every line of the journal."""
    return {line for path in (directory / "segments").iterdir() for line in path.read_text().splitlines()}


def read(path: Path) -> list[str]:
    """Every line that the Collector has passed on, as often as it has. What it is just writing is not whole."""
    found = []
    for batch in path.read_text().rpartition("\n")[0].splitlines() if path.exists() else ():
        for resource in json.loads(batch)["resourceLogs"]:
            logs = (each for scope in resource["scopeLogs"] for each in scope["logRecords"])
            found += [each["body"]["stringValue"] for each in logs]
    return found


def test_every_line_comes_once(collector: Path, recipe: Path) -> None:
    """While segments are closed and renamed under it, and over a stop of it in the middle."""
    directory, out = recipe.parent / "data", recipe.parent / "records.json"
    with journal(directory, segment_bytes=20_000) as writer:
        with running(collector, recipe):
            for number in range(1, 60):
                append(writer, request(number), response(number))
            eventually(lambda: out.exists() and out.stat().st_size > 0, "lines that the Collector has read")
        for number in range(60, 120):
            append(writer, request(number), response(number))
        with running(collector, recipe):
            for number in range(120, 180):
                append(writer, request(number), response(number))
            eventually(lambda: len(read(out)) > 240, "lines of after the stop")
    with running(collector, recipe):
        eventually(lambda: written(directory) <= set(read(out)), "the journal's last line")
    assert len([*(directory / "segments").glob("*.jsonl")]) > 3
    assert sorted(read(out)) == sorted(written(directory))
