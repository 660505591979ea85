"""The bench runs: what it prints is complete. Nothing here says how fast anything has to be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench import growth, interpreter, peers, report


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_a_quick_run_fills_the_table(tmp_path: Path) -> None:
    """Envoy alone and the no-op server on our own transport each give a line with every column that they have."""
    numbers = tmp_path / "numbers.json"
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), "--quick", "--only", "a,c", "--json", str(numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    title, _, alone, ours = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert title[1:] == [column.title for column in report.COLUMNS]
    assert alone[0] == "(a) Envoy alone"
    assert ours[0] == "(c) no-op, our HTTP/2"
    assert all(ours)
    measured = json.loads(numbers.read_text())["rounds"][0]["c"]
    assert measured["messages"] == pytest.approx(4, abs=0.2)


def test_a_missed_aim_says_by_how_much() -> None:
    """The ratio of an aim is taken within each round, and the median of the ratios is what counts."""
    same = {"most_server_us": 10.0, "envoy_us": 100.0}
    figures = [((100.0, 40.0), (190.0, 80.0)), ((200.0, 40.0), (360.0, 70.0)), ((100.0, 80.0), (500.0, 80.0))]
    rounds = [
        {
            letter: {"server_us": request, "chunk_server_us": chunk, **same}
            for letter, (request, chunk) in zip("de", both, strict=True)
        }
        for both in figures
    ]
    assert report.verdicts(rounds, sync_ms=0.1) == [
        "- MISSED by 0.10: CPU a request, (e) to (d): 1.90 (1.80 to 5.00), at most 1.80",
        "- MISSED by 0.95: CPU an SSE chunk, (e) to (d): 1.75 (1.00 to 2.00), at most 0.80",
        "- met: CPU an SSE chunk at most chunks/s, (e) to (d): 1.00 (1.00 to 1.00), at most 1.90",
        "- met: Envoy's CPU a request, (e) to (d): 1.00 (1.00 to 1.00), at most 1.00",
    ]


def test_a_figure_that_a_target_does_not_have_is_left_out() -> None:
    """Envoy alone has no server beside it, so that its cells stay empty."""
    rounds = [{"a": {column.number: 0.0 for column in report.COLUMNS} | {"requests_per_second": 12345.6}}]
    assert report.table(rounds).splitlines()[2] == "| (a) Envoy alone | 12,346 |" + "  |" * 8


def test_what_slows_the_whole_machine_is_no_growth() -> None:
    """The slope is that of the ratio to the server beside it, over the whole series."""
    points = [growth.Point(1000 * step, us=200.0 * load, beside_us=100.0 * load) for step, load in enumerate((1, 4, 2))]
    assert growth.slope(points) == pytest.approx(0)
    points = [growth.Point(step, us=100.0 + 50 * step, beside_us=100.0) for step in range(3)]
    assert growth.slope(points) == pytest.approx(1)
    lines = growth.table("A request", "requests", points).splitlines()
    assert lines[-1] == "Slope: +1.00 from the first point to the last."
    assert lines[6] == "| 2 | 200.0 | 100.0 | 2.00 | `" + "#" * growth.BAR + "` |"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_a_quick_run_of_peers_has_a_line_for_each(tmp_path: Path) -> None:
    """Envoy alone keeps nothing of a request, so nothing is found when it has been killed."""
    script = Path(__file__).with_name("peers.py")
    command = [sys.executable, str(script), "--rounds", "1", "--seconds", "1", "--only", "Envoy alone"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert (cells[0], cells[-1]) == ("Envoy alone", "0")
    assert all(cells)


@pytest.mark.parametrize(
    "written",
    [
        b'{"user":"17"}',
        rb'{"body":"{\"user\":\"17\",\"stream\":true}"}',
        rb"{\x22user\x22:\x2217\x22}",
        b'{"user": "17"}',
    ],
)
def test_a_request_is_found_however_a_log_quotes_it(tmp_path: Path, written: bytes) -> None:
    """As it came, as JSON in JSON, and with the escapes of nginx."""
    (tmp_path / "access.log").write_bytes(written)
    assert peers.found_in(tmp_path) == {17}


def test_a_python_of_another_version_cannot_take_our_packages(tmp_path: Path) -> None:
    """So it is not chosen; one of our version is, with our packages."""
    (other := tmp_path / "other").write_text("#!/bin/sh\necho 2 7; echo 2.7.18\n")
    major, minor, *_ = sys.version_info
    (same := tmp_path / "same").write_text(f"#!/bin/sh\necho {major} {minor}; echo {major}.{minor}.99\n")
    for each in (other, same):
        each.chmod(0o755)
    assert interpreter.debian(tmp_path / "none") is None
    assert interpreter.debian(other) is None
    found = interpreter.debian(same)
    assert found is not None
    assert found.words == f"Debian's Python {major}.{minor}.99"
    assert "site-packages" in found.environ["PYTHONPATH"]
