"""The command group: help, exit codes, errors, what is imported when."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from support.commands import PROGRAM, invoke, run

import extproc
from extproc.cli.main import COMMANDS, group


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    """`--help` says what it does first, has a part Examples, and every example is accepted by the command itself."""
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    examples = re.findall(rf"^ +(extproc {name}\b.*?)(?: {{2,}}.*|[>|&#].*)?$", result.output, re.MULTILINE)
    assert examples
    command = group.get_command(click.Context(group), name)
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    for example in examples:
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", example)) <= known, example


@pytest.mark.parametrize("name", COMMANDS)
def test_the_groups_summary_is_the_commands_own(name: str) -> None:
    """The list of commands is written twice, so that help need not import them all; both say the same."""
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.help is not None
    assert command.help.split("\n\n", 1)[0].replace("\n", " ") == COMMANDS[name]


def test_help_lists_every_command() -> None:
    """In the order in which one meets them, with examples of use."""
    result = invoke("--help")
    assert result.exit_code == 0
    assert re.findall(r"^  ([a-z-]+) {2,}\S", result.output.split("Commands:")[1], re.MULTILINE) == list(COMMANDS)
    assert "Examples:" in result.output


def test_version() -> None:
    """The package's own."""
    assert invoke("--version").output == f"extproc {extproc.__version__}\n"


def test_an_unknown_command_is_wrong_usage_with_a_suggestion() -> None:
    """Exit 2; the nearest name is offered, and control characters do not come back."""
    result = invoke("shwo")
    assert result.exit_code == 2
    assert "Did you mean show?" in result.stderr
    assert "\x1b" not in invoke("\x1b[2J").stderr


@pytest.mark.parametrize(
    "arguments", [["log"], ["show", "x"], ["inflight", "--at-crash"], ["verify"], ["replay", "x", "--curl"]]
)
def test_a_missing_data_directory_is_one_line_and_exit_2(arguments: list[str]) -> None:
    """The line names the directory."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "extproc: data: there is no such data directory; name one with --data-dir\n"


def test_a_wrong_setting_is_one_line_and_exit_2(tmp_path: Path) -> None:
    """File, line, what was seen and what was expected; from a process, without a traceback."""
    (tmp_path / "extproc.yaml").write_text("# mine\nworkers: many\n")
    for arguments in (["log"], ["serve"]):
        result = run(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == b""
        assert result.stderr.decode() == (
            "extproc: extproc.yaml:2: workers: expected a whole number from 1 to 256, got 'many'\n"
        )


def test_an_unreadable_journal_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """What the system refuses is named, with the file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "segments").write_text("not a directory")
    result = run("log", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == b"extproc: data/segments: Not a directory\n"


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path) -> None:
    """No message, no traceback, exit 0: `extproc --help | head -0` too."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen([*PROGRAM, "init", "x"], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, stderr = process.communicate(timeout=150)
    assert (process.returncode, stderr) == (0, b"")


@pytest.mark.parametrize("command", ["--help", "log", "show", "inflight", "verify", "replay"])
def test_reading_commands_do_not_load_what_they_do_not_need(tmp_path: Path, command: str) -> None:
    """Neither gRPC nor asyncio nor aiohttp: `extproc log` is to start at once."""
    program = (
        "import json, sys\nfrom extproc.cli.main import main\n"
        f"try:\n    main([{command!r}, '--help'])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=150, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stderr)}
    assert "click" in loaded
    assert not loaded & {"grpc", "asyncio", "aiohttp", "google.protobuf", "uvloop", "yaml"}
