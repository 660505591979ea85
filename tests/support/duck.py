"""DuckDB on a bucket of the tests, with the extension that a wheel brings: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import duckdb
import duckdb_extension_httpfs
from support import buckets


def on_s3(endpoint: str) -> duckdb.DuckDBPyConnection:
    """A connection that reads `s3://` from this store."""
    assert duckdb_extension_httpfs.__file__ is not None
    extension = next(Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension"))
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension}'")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{buckets.KEY}', SECRET '{buckets.SECRET}', URL_STYLE 'path', USE_SSL false,"
        f" ENDPOINT '{endpoint.removeprefix('http://')}')"
    )
    return connection


def rows_of(url: str) -> str:
    """The exchanges of a bucket, for `FROM`."""
    return f"read_parquet('{url}/v1/exchanges/**/*.parquet', hive_partitioning = true)"
