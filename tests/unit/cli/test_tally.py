"""`extproc log --by`: counts, errors and latency at a glance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import invoke, on_terminal
from support.recorded import ESCAPE, Recording

from extproc.history.tally import KEYS, percentile


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three exchanges on one backend, one of them an error, and one that reached none."""
    path = tmp_path / "data"
    with Recording(path) as recording:
        for status in (200, 200, 500):
            recording.add(status=status, upstream="10.0.0.7:8000")
        recording.add(b'{"model":"other"}', upstream="10.0.0.8:8000", path="/v1/completions")
        recording.add(b"", None, method="GET", path="/v1/models")
    return path


def counted(data: Path, key: str, *arguments: str) -> list[str]:
    """The lines that `log --by` prints into a pipe."""
    result = invoke("log", "--data-dir", data, "--by", key, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("upstream", [("10.0.0.7:8000", 3, 1), ("10.0.0.8:8000", 1, 0)]),
        ("model", [("llama-3", 3, 1), ("other", 1, 0)]),
        ("route", [("default", 4, 1)]),
        ("outcome", [("ok", 3, 0), ("upstream_error_status", 1, 1)]),
        ("client", [("192.0.2.9", 4, 1)]),
    ],
)
def test_counts_and_errors(data: Path, key: str, expected: list[tuple[str, int, int]]) -> None:
    """Most exchanges first; those in flight are left out."""
    lines = [json.loads(line) for line in counted(data, key, "--json")]
    assert [(line[key], line["exchanges"], line["errors"]) for line in lines] == expected
    rows = [line.split("\t") for line in counted(data, key)]
    assert [(row[0], int(row[1]), int(row[3])) for row in rows] == expected


def test_latency(data: Path) -> None:
    """Percentiles of the whole exchange, and of the first token where there was one."""
    first = json.loads(counted(data, "upstream", "--json")[0])
    assert first["duration_ms"] == {"p50": 150.0, "p90": 150.0, "p99": 150.0}
    assert set(first["ttft_ms"]) == {"p50", "p90", "p99"}


def test_filters_and_limit_come_first(data: Path) -> None:
    """Only what `log` would have listed is counted."""
    assert [line.split("\t")[:2] for line in counted(data, "model", "--status", "500")] == [["llama-3", "1"]]
    assert [line.split("\t")[:2] for line in counted(data, "model", "--limit", "1")] == [["other", "1"]]


def test_attempts_that_another_one_followed(tmp_path: Path) -> None:
    """Counted where they failed, also at a server where nothing ended; for other keys, where their exchange counts."""
    failed = [{"upstream": "10.0.0.9:8000"}, {"upstream": "10.0.0.8:8000"}]
    with Recording(tmp_path / "data") as recording:
        recording.add(upstream="10.0.0.8:8000", status=500)
        for _ in range(2):
            id = recording.add()
            recording.add_access(id, upstream="10.0.0.7:8000", attempts=3, failed_attempts=failed)
    lines = [json.loads(line) for line in counted(tmp_path / "data", "upstream", "--json")]
    assert {line["upstream"]: (line["exchanges"], line["failed_attempts"]) for line in lines} == {
        "10.0.0.7:8000": (2, 0),
        "10.0.0.8:8000": (1, 2),
        "10.0.0.9:8000": (0, 2),
    }
    rows = [line.split("\t") for line in counted(tmp_path / "data", "upstream")]
    assert [(row[0], row[1], row[4], row[-1]) for row in rows] == [
        ("10.0.0.7:8000", "2", "0.0%", "0"),
        ("10.0.0.8:8000", "1", "100.0%", "2"),
        ("10.0.0.9:8000", "0", "0.0%", "2"),
    ]
    assert json.loads(counted(tmp_path / "data", "model", "--json")[0])["failed_attempts"] == 4


def test_a_clients_mistakes_are_no_errors(tmp_path: Path) -> None:
    """Nor are limits; what class each was is counted beside them."""
    with Recording(tmp_path / "data") as recording:
        for status in (200, 400, 404, 422, 429, 408, 500):
            recording.add(status=status, upstream="10.0.0.7:8000")
    (backend,) = map(json.loads, counted(tmp_path / "data", "upstream", "--json"))
    assert (backend["exchanges"], backend["errors"]) == (7, 2)
    assert backend["classes"] == {"ok": 1, "client": 3, "limited": 1, "upstream": 2}


def test_exchanges_without_the_key(data: Path) -> None:
    """They are counted under a dash, and as null in JSON."""
    assert ["-", "1"] in [line.split("\t")[:2] for line in counted(data, "upstream", "--all")]
    assert None in [json.loads(line)["upstream"] for line in counted(data, "upstream", "--all", "--json")]


def test_nothing_to_count(tmp_path: Path) -> None:
    """No line, no error."""
    tmp_path.chmod(0o700)
    assert counted(tmp_path, "model") == []


def test_a_table_for_a_person(data: Path, tmp_path: Path) -> None:
    """With titles and units."""
    text = on_terminal("log", "--data-dir", data, "--by", "upstream", cwd=tmp_path, columns=120).decode()
    assert "upstream" in text.splitlines()[0]
    assert "150.0 ms" in text
    assert "75.0%" in text


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    """A model's name comes from a client."""
    with Recording(tmp_path / "data") as recording:
        recording.add(json.dumps({"model": ESCAPE}).encode())
    for arguments in ((), ("--json",)):
        (line,) = counted(tmp_path / "data", "model", *arguments)
        assert line.replace("\t", " ").isprintable()


@pytest.mark.parametrize("arguments", [("--follow",), ("--format", "openresty")])
def test_what_it_cannot_be_combined_with(data: Path, arguments: tuple[str, ...]) -> None:
    """Usage, not silence."""
    assert invoke("log", "--data-dir", data, "--by", "model", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, None), ([1], 50, 1), ([1], 99, 1), ([3, 1, 2], 50, 2), (range(1, 101), 99, 99), (range(1, 101), 90, 90)],
)
def test_percentile(values: list[float], percent: int, expected: float | None) -> None:
    """Nearest rank: always one of the values."""
    assert percentile(sorted(values), percent) == expected


def test_every_key_of_the_option_is_there() -> None:
    """As the README promises them."""
    assert list(KEYS) == [
        *("upstream", "model", "route", "outcome", "status", "client", "key", "api", "fingerprint", "hour"),
    ]
