"""What a question to a large journal costs, with its index: `make bench-history`.

Run alone as `python tests/bench/history.py [EXCHANGES]`. CPU seconds of each command beyond those of
`extproc --version`, whose start is the floor; the index's rate and size. The journal is generated
(`support/bulk.py`), with bodies of 2 kB.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import bulk

from extproc.core.record import timestamp
from extproc.history.index import store
from extproc.history.index.indexer import Indexer
from extproc.processes import gc

EXCHANGES = 1_000_000
TIMES = 3


def cpu(*arguments: str) -> float:
    """The CPU seconds of a command, the best of a few runs."""
    best = float("inf")
    for _ in range(TIMES):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "extproc", *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def rebuild(directory: Path) -> tuple[float, float]:
    """Rows a CPU second, and bytes a row."""
    store.delete(directory)
    gc.freeze_after_start()
    began = time.process_time()
    indexer = Indexer(directory)
    while indexer.step():
        pass
    indexer.commit(now=True)
    count = indexer.exchanges
    indexer.close()
    return count / (time.process_time() - began), store.path_of(directory).stat().st_size / count


def lines(directory: Path, exchanges: int) -> Iterator[str]:
    """What the bench prints."""
    end_ns = time.time_ns()
    bulk.write(directory, exchanges, end_ns=end_ns)
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    yield f"{exchanges:,} exchanges, {os.cpu_count()} cores, load {load}"
    rate, size = rebuild(directory)
    yield f"- rebuild: {rate:,.0f} exchanges a CPU second, {size:.0f} bytes each"
    floor = cpu("--version")
    yield f"- `extproc --version`: {floor:.3f} s"
    id = next(itertools.islice(bulk.ids(exchanges, end_ns), exchanges // 2, None))
    middle = timestamp(end_ns - exchanges // 2 * bulk.EVERY_NS)
    for question in (
        ("log", "--limit", "20"),
        ("log", "--id", id),
        ("show", id),
        ("inflight", "--at", middle),
        ("inflight", "--at-crash"),
        ("log", "--upstream", bulk.UPSTREAMS[3], "--since", "1h"),
        ("log", "--by", "upstream"),
    ):
        more = cpu(*question, "--data-dir", str(directory)) - floor
        yield f"- `extproc {' '.join(question)}`: {more:.3f} s more"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        for line in lines(Path(name) / "data", int(sys.argv[1]) if len(sys.argv) > 1 else EXCHANGES):
            print(line, flush=True)
