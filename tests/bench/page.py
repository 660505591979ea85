"""What the page costs over a large journal: `make bench-page`.

Run alone as `python tests/bench/page.py [EXCHANGES]`. The seconds from a request to its whole answer, the best of a
few, and the memory of the process after all of them. The journal is generated (`support/bulk.py`).
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import bulk

from extproc.history.index.indexer import Indexer
from extproc.incidents.indexed import Bodies

EXCHANGES = 1_000_000
TIMES = 3
ASKED = (
    "exchanges?view=rows&limit=200",
    "exchanges?view=rows&limit=200&q=failed",
    "exchanges?view=rows&limit=200&q=upstream%3D10.0.0.7",
    "exchanges?view=rows&limit=200&q=model%3Dmodel-3%20status%3D5xx",
    "histogram",
    "counts?by=upstream",
    "inflight",
)


def prepare(directory: Path, exchanges: int) -> None:
    """The journal and its index."""
    bulk.write(directory, exchanges, end_ns=time.time_ns(), body_bytes=300)
    indexer = Indexer(directory, reader=Bodies())
    while indexer.step():
        pass
    indexer.commit(now=True)
    indexer.close()


def lines(directory: Path, exchanges: int) -> Iterator[str]:
    """What the bench prints."""
    prepare(directory, exchanges)
    yield f"{exchanges:,} exchanges"
    command = [sys.executable, "-m", "extproc", "page", "--port", "0", "--data-dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        url = page.stdout.readline().split()[1]
        for asked in ASKED:
            best = min(_seconds(f"{url}api/v1/{asked}") for _ in range(TIMES))
            yield f"- `/api/v1/{asked}`: {best:.3f} s"
        status = Path(f"/proc/{page.pid}/status").read_text(encoding="ascii")
        memory = re.search(r"VmHWM:\s+(\d+)", status)
        assert memory is not None
        yield f"- the page's process, at most: {int(memory[1]) / 1024:.0f} MiB"
        page.send_signal(signal.SIGTERM)


def _seconds(url: str) -> float:
    began = time.monotonic()
    with urllib.request.urlopen(url) as answer:
        answer.read()
    return time.monotonic() - began


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as name:
        for line in lines(Path(name) / "data", int(sys.argv[1]) if len(sys.argv) > 1 else EXCHANGES):
            print(line, flush=True)
