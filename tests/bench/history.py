"""What a question to a large journal costs, with its index: `make bench-history`.

Run alone as `python tests/bench/history.py [EXCHANGES] [DIRECTORY]`. CPU seconds of each command beyond those of
`extproc --version`, whose start is the floor; the index's rate and size. The journal is generated
(`support/bulk.py`), with bodies of 2 kB; in a directory that is named it stays, and is taken the next time.
"""

from __future__ import annotations

import itertools
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import bulk

from extproc.core.times import timestamp
from extproc.history.index import store
from extproc.history.index.indexer import Indexer
from extproc.incidents.indexed import Bodies
from extproc.processes import gc

EXCHANGES = 1_000_000
TIMES = 5
HOUR_NS = 3_600_000_000_000
_ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Without it each start would compile every module anew."""


def cpu(*arguments: str) -> float:
    """The CPU seconds of a command, the best of a few runs."""
    best = float("inf")
    for _ in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "extproc", *arguments], check=True, capture_output=True, env=_ENVIRON)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def rebuild(directory: Path) -> tuple[float, float]:
    """Rows a CPU second, what bodies tell among them, and bytes a row: what `extproc index --rebuild` does."""
    store.delete(directory)
    gc.freeze_after_start()
    began = time.process_time()
    indexer = Indexer(directory, reader=Bodies())
    while indexer.step():
        pass
    indexer.commit(now=True)
    count = indexer.exchanges
    indexer.close()
    return count / (time.process_time() - began), store.path_of(directory).stat().st_size / count


def journal(directory: Path, exchanges: int) -> int:
    """The journal, written where it is not there yet; when it ends, in nanoseconds since 1970."""
    note = directory / "end_ns"
    if not note.exists():
        end_ns = time.time_ns()
        bulk.write(directory / "data", exchanges, end_ns=end_ns)
        note.write_text(str(end_ns))
    return int(note.read_text())


def lines(directory: Path, exchanges: int) -> Iterator[str]:
    """What the bench prints: a table in Markdown."""
    end_ns = journal(directory, exchanges)
    data = directory / "data"
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    programs = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    yield f"{exchanges:,} exchanges, {os.cpu_count()} cores, load {load}, {programs}"
    yield ""
    rate, size = rebuild(data)
    floor = cpu("--version")
    yield "| | | aim |"
    yield "|---|---:|---:|"
    yield f"| rebuild, exchanges a CPU second | {rate:,.0f} | 8,000 |"
    yield f"| index, bytes an exchange | {size:.0f} | 500 |"
    yield f"| `extproc --version`, s of CPU: the floor | {floor:.3f} | |"
    id = next(itertools.islice(bulk.ids(exchanges, end_ns), exchanges // 2, None))
    middle = timestamp(end_ns - exchanges // 2 * bulk.EVERY_NS)
    for question, aim in (
        (("log", "--limit", "20"), 0.1),
        (("log", "--id", id), 0.1),
        (("show", id), 0.1),
        (("inflight", "--at", middle), 0.1),
        (("inflight", "--at-crash"), 0.1),
        (("log", "--upstream", bulk.UPSTREAMS[3], "--since", timestamp(end_ns - HOUR_NS)), 0.1),
        (("log", "--by", "upstream"), 2.0),
    ):
        more = cpu(*question, "--data-dir", str(data)) - floor
        yield f"| `extproc {' '.join(question)}`, s more | {more:.3f} | {aim:g} |"


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EXCHANGES
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        for line in lines(Path(sys.argv[2] if len(sys.argv) > 2 else name), count):
            print(line, flush=True)
