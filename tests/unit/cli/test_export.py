"""`extproc export`: filters, files and exit codes; the formats are tested in tests/unit/export."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PROGRAM, invoke, on_terminal
from support.exported import record_all
from support.recorded import Recording
from support.stack import eventually

from extproc import export


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal with an exchange of each kind; the fourth has not ended."""
    record_all(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("layout", sorted(export.WRITERS))
def test_every_format_to_stdout_and_to_a_file(data: Path, tmp_path: Path, layout: str) -> None:
    """The same bytes; the file is its owner's alone, and stderr says how many."""
    if layout == "parquet":
        pytest.importorskip("pyarrow", reason="it is in the lock of development")
    arguments = ("export", "--format", layout, "--data-dir", str(data))
    target = tmp_path / "out"
    done = subprocess.run([*PROGRAM, *arguments, "-O", str(target)], capture_output=True, check=True)
    assert (done.stdout, target.stat().st_mode & 0o777) == (b"", 0o600)
    assert done.stderr.splitlines()[-1] == b"%d exchanges in %b" % (3 if layout == "openai-batch" else 4, bytes(target))
    piped = subprocess.run([*PROGRAM, *arguments], capture_output=True, check=True)
    assert piped.stdout == target.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "out"]


def test_the_filters_are_those_of_log(data: Path) -> None:
    """What has not ended is left out, but where it is asked for."""

    def ids(command: str, *filters: str) -> list[str]:
        form = ("--format", "jsonl") if command == "export" else ("--json",)
        done = invoke(command, *form, *filters, "--data-dir", data)
        assert done.exit_code == 0, done.stderr
        return [json.loads(line)["id"] for line in done.stdout.splitlines()]

    for filters in ([], ["--method", "GET"], ["--outcome", "in_flight"], ["--grep", "Hel"], ["--status", "200"]):
        assert ids("export", *filters) == ids("log", *filters)
    (one,) = ids("export", "--method", "GET")
    assert ids("export", "--id", one) == [one]


def test_nothing_matches(data: Path) -> None:
    """An empty export, told on stderr; no problem."""
    done = invoke("export", "--format", "jsonl", "--model", "none", "--data-dir", data)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 exchanges\n")


@pytest.mark.parametrize("layout", ["jsonl", "csv", "har"])
def test_a_body_that_is_gone_ends_nothing(tmp_path: Path, layout: str) -> None:
    """The exchange is exported without it, stderr names it, and the exit code is 1."""
    with Recording(tmp_path / "data") as recording:
        id = recording.add(b'{"model":"%b"}' % (b"m" * 2000))
        recording.add()
    (tmp_path / "data" / "bodies" / f"{id}.request").unlink()
    done = invoke("export", "--format", layout, "--bodies", "--data-dir", tmp_path / "data")
    assert done.exit_code == 1
    assert done.stdout.count(id) >= 1
    assert f"extproc: {id}: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "Missing option '--format'"),
        (("--format", "xml"), "'xml' is not one of"),
        (("--format", "jsonl", "--grep", "("), "--grep"),
        (("--format", "jsonl", "--data-dir", "nowhere"), "nowhere"),
    ],
)
def test_misuse(data: Path, arguments: tuple[str, ...], what: str) -> None:
    """Exit 2, with what is wrong."""
    done = invoke("export", *arguments, *(() if "--data-dir" in arguments else ("--data-dir", data)))
    assert done.exit_code == 2
    assert what in done.stderr


def test_bytes_are_nothing_for_a_terminal(data: Path) -> None:
    """Neither are a client's texts as they are; JSON has escapes for them."""
    for layout in ("parquet", "csv"):
        assert b"-O FILE" in on_terminal("export", "--format", layout, "--data-dir", data, cwd=data.parent)
    shown = on_terminal("export", "--format", "jsonl", "--data-dir", data, cwd=data.parent)
    assert b'"outcome":"ok"' in shown


def test_a_file_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    """One line that names it, exit 1, and what was there stays."""
    target = tmp_path / "out"
    target.write_text("before")
    done = invoke("export", "--format", "jsonl", "-O", tmp_path / "none" / "x", "--data-dir", data)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    command = (*PROGRAM, "export", "--format", "jsonl", "--data-dir", data, "-O", target)
    limited = subprocess.run(
        ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 1
    assert str(target) in limited.stderr
    assert target.read_text() == "before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "out"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither half a file nor another one's name."""
    with Recording(tmp_path / "data") as recording:
        for _ in range(300):
            recording.add(answer=b"x" * 300_000)
    target = tmp_path / "out"
    arguments = ("export", "--format", "har", "--bodies", "--data-dir", tmp_path / "data", "-O", target)
    process = subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: [each for each in tmp_path.iterdir() if each.name.startswith(".out.")], "the file in the making")
    process.send_signal(signal.SIGINT)
    assert process.wait(150) != 0
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


def test_into_a_pipe_by_name(data: Path, tmp_path: Path) -> None:
    """What is no file is written to, and stays what it is."""
    os.mkfifo(tmp_path / "pipe")
    arguments = ("export", "--format", "jsonl", "--data-dir", str(data), "-O", str(tmp_path / "pipe"))
    process = subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.DEVNULL)
    assert (tmp_path / "pipe").read_bytes().count(b"\n") == 4
    assert process.wait(150) == 0
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.slow
@pytest.mark.parametrize("layout", sorted(export.WRITERS))
def test_memory_does_not_grow_with_the_journal(tmp_path: Path, layout: str) -> None:
    """Forty answers of 2 MB take hardly more than four: one is held at a time, or one row group."""
    if layout == "parquet":
        pytest.importorskip("pyarrow", reason="it is in the lock of development")
    with Recording(tmp_path / "data") as recording:
        for _ in range(40):
            recording.add(b'{"model":"m","prompt":"%b"}' % (b"x" * 1_000_000), b"y" * 2_000_000)

    def peak(*filters: str) -> int:
        script = (
            "import resource, sys\nfrom extproc.cli.main import main\n"
            "try: main()\nexcept SystemExit as end: code = end.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
        )
        arguments = ("export", "--format", layout, "--bodies", "--data-dir", str(tmp_path / "data"), *filters)
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True)
        assert len(done.stdout) > 1000
        return int(done.stderr.splitlines()[-1])

    few, many = peak("--until", "2025-11-21T03:16:00Z"), peak()
    held_kib = 100 * 1024 if layout == "parquet" else 30 * 1024
    assert many < few + held_kib
