"""What questions to ten million exchanges cost in DuckDB: `make bench-fleet`. Prints the table of docs/fleet.md.

Run alone as `python tests/bench/fleet.py [ROWS]`. The rows are generated: 16 hosts, ten days, 10,000 rows a file, as
segments have where there is much traffic, with the columns of `fleet/table.py`. Each question of docs/fleet.md is asked
of files and of SeaweedFS on the same machine. Cold: a new connection, and for files none of their pages in memory;
warm: the same question again, the best of three.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import duckdb
from support import buckets, duck
from support.buckets import S3

from extproc.fleet.bucket import Bucket
from extproc.fleet.table import COLUMNS

ROWS = 10_000_000
PER_FILE = 10_000
HOSTS = 16
DAYS = 10
TIMES = 3
DOCUMENT = Path(__file__).parents[2] / "docs/fleet.md"

TYPES = {"text": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "truth": "BOOLEAN", "time": "TIMESTAMPTZ"}
_FAILED = "n % 50 = 0"
MADE = {
    "id": "lower(printf('%08x-%04x-7%03x-8%03x-%012x', 26923000 + n // 65536, n % 65536, hash(n) % 4096,"
    " hash(n + 1) % 4096, hash(n + 2) % 281474976710656))",
    "started_at": "began",
    "ended_at": "began + to_milliseconds(50 + hash(n) % 4000)",
    "duration_ms": "50 + hash(n) % 4000",
    "outcome": f"CASE WHEN {_FAILED} THEN CASE WHEN n % 400 = 0 THEN 'upstream_reset_mid_stream'"
    " ELSE 'upstream_error_status' END ELSE 'ok' END",
    "class": f"CASE WHEN {_FAILED} THEN 'upstream' ELSE 'ok' END",
    "method": "'POST'",
    "path": "'/v1/chat/completions'",
    "client": "printf('192.0.2.%d:%d', hash(n) % 200, 30000 + hash(n + 3) % 30000)",
    "key": "printf('redacted:%012x', hash(n % 500))",
    "status": f"CASE WHEN {_FAILED} THEN 503 ELSE 200 END",
    "upstream": "printf('10.0.0.%d:8000', 1 + hash(n + 4) % 64)",
    "cluster": "'llm'",
    "attempts": "1",
    "request_id": "uuid()::VARCHAR",
    "trace_id": "md5(n::VARCHAR)",
    "request_bytes": "200 + hash(n) % 20000",
    "request_sha256": "sha256(n::VARCHAR)",
    "response_bytes": "200 + hash(n + 5) % 9000",
    "response_sha256": "sha256((-n)::VARCHAR)",
    "first_byte_ms": "20 + hash(n) % 900",
    "last_byte_ms": "50 + hash(n) % 4000",
    "api": "'chat.completions'",
    "model": "printf('model-%d', hash(n + 6) % 8)",
    "stream": "n % 2 = 0",
    "response_model": "printf('model-%d', hash(n + 6) % 8)",
    "finish_reasons": "'stop'",
    "tokens_in": "hash(n) % 5000",
    "tokens_out": "hash(n + 5) % 2000",
    "ttft_ms": "CASE WHEN n % 2 = 0 THEN 20 + hash(n + 7) % 900 END",
    "fingerprint": "printf('%016x', hash(n % 3000))",
    "segment": "printf('w0-0193c0de-%06d', n // 10000)",
}
"""Of a column how it is generated, for the row `n` at the time `began`. Those that are not here are empty."""

Ask = Callable[[], duckdb.DuckDBPyConnection]


def questions() -> dict[str, str]:
    """Those of the document, by what it says before each, and a count."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(
        r"\n\n([^\n]+(?:\n[^\n]+)*):\n\n```sql\n((?:SELECT|WITH) .*?FROM exchanges.*?);\n```", text, re.DOTALL
    )
    assert len(found) >= 5, "docs/fleet.md has its queries in another form"
    return {"How many there are": "SELECT count(*) FROM exchanges"} | {
        told.split(", which")[0]: sql for told, sql in found
    }


def generate(root: Path, rows: int) -> str:
    """The files below a directory. Returns the id of one row in the middle."""
    connection = duckdb.connect()
    columns = ", ".join(f"({MADE.get(name, 'NULL')})::{TYPES[kind]} AS {name}" for name, kind in COLUMNS)
    files = max(1, rows // PER_FILE)
    id = ""
    for number in range(files):
        day, host = number * DAYS // files, number % HOSTS
        directory = root / f"v1/exchanges/dt=2026-11-{10 + day:02}/host=gpu{host}-5f0c9a1e"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"w0-0193c0de-{number:06}.parquet"
        start = number * PER_FILE
        at = f"TIMESTAMPTZ '2026-11-10 00:00:00+00' + to_microseconds((n * {DAYS * 86_400_000_000 / rows})::BIGINT)"
        rows_of = f"SELECT {columns} FROM (SELECT range AS n, {at} AS began FROM range({start}, {start + PER_FILE}))"
        connection.execute(f"COPY ({rows_of}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        if number == files // 2:
            id = connection.execute(f"SELECT id FROM '{path}' OFFSET 5000 LIMIT 1").fetchall()[0][0]
    return id


def upload(root: Path, bucket: Bucket) -> None:
    """The same files as objects."""
    paths = list(root.rglob("*.parquet"))
    with ThreadPoolExecutor(8) as senders:
        for _ in senders.map(lambda path: bucket.create(str(path.relative_to(root)), path.read_bytes()), paths):
            pass


def drop_pages(root: Path) -> None:
    """Let the kernel forget what it has of the files."""
    for path in root.rglob("*.parquet"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def seconds(connection: duckdb.DuckDBPyConnection, sql: str) -> float:
    """How long an answer takes."""
    began = time.perf_counter()
    connection.execute(sql).to_arrow_table()
    return time.perf_counter() - began


def measured(connect: Ask, sql: str) -> tuple[float, float]:
    """Cold and warm."""
    connection = connect()
    cold = seconds(connection, sql)
    warm = min(seconds(connection, sql) for _ in range(TIMES))
    connection.close()
    return cold, warm


def with_view(connection: duckdb.DuckDBPyConnection, url: str) -> duckdb.DuckDBPyConnection:
    """The view of the document."""
    connection.execute(f"CREATE VIEW exchanges AS SELECT * FROM {duck.rows_of(url)}")
    return connection


def lines(root: Path, rows: int) -> Iterator[str]:
    """The table."""
    local = root / "local"
    id = generate(local, rows)
    sizes = [path.stat().st_size for path in local.rglob("*.parquet")]
    size = f"{rows:,} rows in {len(sizes):,} files, {sum(sizes) / 1e6:,.0f} MB"
    yield f"{size}; DuckDB {duckdb.__version__}, {os.cpu_count()} cores:"
    yield ""
    yield "| question | files, cold | files, warm | S3, cold | S3, warm |"
    yield "|---|---|---|---|---|"
    (root / "s3").mkdir()
    with S3(root / "s3", volumes=100).running() as s3:
        bucket = s3.bucket()
        upload(local, bucket)

        def on_files() -> duckdb.DuckDBPyConnection:
            drop_pages(local)
            return with_view(duckdb.connect(), str(local))

        def on_s3() -> duckdb.DuckDBPyConnection:
            return with_view(duck.on_s3(s3.endpoint), bucket.url)

        for told, sql in questions().items():
            asked = re.sub(r"id = '[^']*'", f"id = '{id}'", sql)
            taken = (*measured(on_files, asked), *measured(on_s3, asked))
            yield f"| {told} | " + " | ".join(f"{each:.2f} s" for each in taken) + " |"


def main(rows: int) -> None:
    """The whole of it."""
    os.environ.update(buckets.ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="extproc-bench-fleet-") as root:
        for line in lines(Path(root), rows):
            print(line, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else ROWS)
