"""What a command loads before it does anything: nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.recorded import Recording

from extproc.history.index.indexer import Indexer

SCRIPT = """
import sys
from extproc.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""
NEVER = {"grpc", "asyncio", "opentelemetry", "prometheus_client", "re2", "rich", "yaml", "uvloop", "watchfiles"}
"""What no reading command needs, with its output in a pipe."""
WRITING = {"subprocess", "secrets", "extproc.core.redact", "extproc.core.exchange"}
"""What only those need that record or start something."""
STORAGE = {"msgspec", "sqlite3", "zstandard", "google_crc32c"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal with an index."""
    with Recording(tmp_path / "data") as recording:
        recording.add()
    indexer = Indexer(tmp_path / "data")
    indexer.step()
    indexer.close()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], NEVER | STORAGE),
        (["--help"], NEVER | STORAGE),
        (["log", "--limit", "20"], NEVER | WRITING),
        (["log", "--by", "upstream"], NEVER | WRITING),
        (["inflight"], NEVER | WRITING),
        (["inflight", "--at-crash"], NEVER | WRITING),
    ],
)
def test_a_command_loads_what_it_uses(data: Path, arguments: list[str], unwanted: set[str]) -> None:
    """Start-up is most of what a quick answer takes."""
    where = [] if arguments[0].startswith("-") else ["--data-dir", str(data)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments, *where], capture_output=True, text=True, check=True, cwd=data
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "click" in loaded
    assert loaded & unwanted == set()
