"""`extproc completion`: in real shells, what is offered after a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import invoke
from support.recorded import Recording

from extproc.cli.main import COMMANDS

SHELLS = ("bash", "zsh", "fish")

_BASH = """
eval "$(extproc completion bash)"
COMP_WORDS=({words}) COMP_CWORD={last}
_extproc_completion extproc
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = "extproc completion fish | source; complete -C '{words}'"


def _path(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has the program under test, whatever else is installed."""
    program = tmp_path / "bin" / "extproc"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m extproc "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def offered(shell: str, line: str, tmp_path: Path) -> list[str]:
    """What the shell offers at the end of a line, each without its help."""
    words = line.split(" ")
    script = {"bash": _BASH, "fish": _FISH}[shell].format(
        words=line if shell == "fish" else " ".join(word or "''" for word in words), last=len(words) - 1
    )
    done = subprocess.run(
        [shell, "-c", script],
        env=_path(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    return [each.partition("\t")[0] for each in done.stdout.splitlines() if each]


@pytest.fixture
def recorded(tmp_path: Path) -> list[str]:
    """The ids of three exchanges, oldest first, in the directory that commands read by default."""
    with Recording(tmp_path / "data") as recording:
        return [str(recording.add(answer=b"x")) for _ in range(3)]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_commands_and_options(shell: str, tmp_path: Path) -> None:
    """Those that begin so, and no file of the directory."""
    (tmp_path / "inside").write_text("")
    assert sorted(offered(shell, "extproc in", tmp_path)) == sorted(name for name in COMMANDS if name.startswith("in"))
    assert offered(shell, "extproc log --min-t", tmp_path) == ["--min-ttft"]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_ids(shell: str, tmp_path: Path, recorded: list[str]) -> None:
    """Of the journal that `--data-dir` names, or that is there; and the words for the last ones."""
    assert sorted(offered(shell, "extproc show la", tmp_path)) == ["last", "last-failed"]
    assert sorted(offered(shell, f"extproc show {recorded[0][:4]}", tmp_path)) == sorted(recorded)
    assert sorted(offered(shell, f"extproc show --data-dir data {recorded[1]}", tmp_path)) == [recorded[1]]
    assert offered(shell, f"extproc show --data-dir none {recorded[1]}", tmp_path) == []


def test_zsh_knows_the_program(tmp_path: Path) -> None:
    """It reads the script, and completes the program with the function in it."""
    script = 'autoload -Uz compinit; compinit -u; eval "$(extproc completion zsh)"; print -r -- "${_comps[extproc]}"'
    done = subprocess.run(
        ["zsh", "-f", "-c", script], env=_path(tmp_path), capture_output=True, text=True, timeout=150, check=True
    )
    assert (done.stdout, done.stderr) == ("_extproc_completion\n", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_for_this_shell(shell: str) -> None:
    """It asks the program with the word of its own protocol."""
    done = invoke("completion", shell)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"_EXTPROC_COMPLETE={shell}_complete" in done.stdout


def test_another_shell_is_named_with_those_there_are() -> None:
    """Exit 2."""
    done = invoke("completion", "tcsh")
    assert done.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
