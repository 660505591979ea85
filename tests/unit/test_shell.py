"""Words for a shell: each is exactly one, and the shell runs nothing in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import shell
from extproc.errors import JournalError
from extproc.journal.directory import open_directory

HOSTILE = [
    *(b"'", b'"', b"`id`", b"$(id)", b"${HOME}", b"$HOME", b"\\", b"\n", b"\r", b"\t", b";", b"|", b"&", b"#", b"!"),
    *(b"*", b"~", b"-n", b"--", b"@", b"%s", b"%", b"(", b"<<E", b">f", b"\x1b[2J", b"\x80", b"\xff", b"\xe2\x80\xae"),
    *("漢字".encode(), "\u2028".encode(), b"=", b" ", b"0", b"\\0101", b"x"),
]
"""What means something to a shell, to printf or to a terminal, and what does not."""

words = st.lists(st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=3)), max_size=8).map(b"".join)


def echoed(script: str, cwd: Path) -> bytes:
    """What a real `sh` writes that finds no program to run."""
    environ = {"PATH": str(cwd), "HOME": "/nowhere"}
    done = subprocess.run(
        ["/bin/sh", "-eu"], input=script.encode(), cwd=cwd, env=environ, capture_output=True, check=True
    )
    assert done.stderr == b""
    return done.stdout


@given(word=words.map(lambda word: word.replace(b"\0", b"")))
def test_any_word_is_exactly_one_argument(word: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of whatever bytes; and it is printable, on one line but for line feeds at its end."""
    quoted = shell.quote(word)
    script = f'set -- {quoted}\nprintf \'%s.%s\' "$#" "$1"'
    assert echoed(script, tmp_path_factory.getbasetemp()) == b"1." + word
    assert quoted.replace("\n", "").isprintable()
    assert "\n" not in quoted or word.endswith(b"\n")


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("", "''"),
        ("POST", "'POST'"),
        ("it's", r"'it'\''s'"),
        ("漢字", "'漢字'"),
        ("%n\x1b", "\"$(printf %b '\\0045n\\0033')\""),
        (b"\xff", "\"$(printf %b '\\0377')\""),
        ("\ud800", "\"$(printf %b '\\0355\\0240\\0200')\""),
    ],
)
def test_quote(word: str | bytes, quoted: str) -> None:
    """Always in single quotes, readable where it can be."""
    assert shell.quote(word) == quoted


def test_a_nul_is_refused() -> None:
    """No argument of a program can hold one."""
    with pytest.raises(ValueError, match="NUL"):
        shell.quote("a\0b")


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_literal_is_the_text_itself(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Line feeds included."""
    written = echoed(f"printf %s {shell.literal(text)}", tmp_path_factory.getbasetemp())
    assert written == text.encode()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("data", "data"),
        ("/srv/extproc-1.2/data_3", "/srv/extproc-1.2/data_3"),
        ("my data", "'my data'"),
        ("a;reboot", "'a;reboot'"),
        ("~", "'~'"),
        ("=x", "'=x'"),
        ("-rf", "./-rf"),
        ("-r f", "'./-r f'"),
        (os.fsdecode(b"\xff"), "\"$(printf %b '\\0377')\""),
    ],
)
def test_a_path_of_a_hint(path: str, shown: str) -> None:
    """As it is where that is safe, quoted elsewhere, and never an option."""
    assert shell.path(Path(path)) == shown


# Hints -----------------------------------------------------------------------------------------------------


def hint(*arguments: str | Path, cwd: Path, path: str = "/usr/bin:/bin") -> str:
    """The command that a message of the program names."""
    done = subprocess.run(
        [*map(str, arguments), "publish", "--envoy-dir", "nowhere", "--to", "x"],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        check=False,
    )
    return done.stderr.decode().split("`")[1]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory whose name a shell would cut in two, with the command in it as pip installs it."""
    directory = tmp_path / "my venv"
    directory.mkdir()
    script = directory / "extproc"
    script.write_text(f"#!{sys.executable}\nfrom extproc.cli.main import main\nmain()\n")
    script.chmod(0o755)
    return directory


def test_a_hint_names_the_command_as_it_was_started(installed: Path, tmp_path: Path) -> None:
    """By its path, by its name, or as a module: each can be typed again as it is."""
    assert hint("my venv/extproc", cwd=tmp_path) == "'my venv/extproc' init ."
    assert hint("extproc", cwd=tmp_path, path=f"{installed}:/usr/bin:/bin") == "extproc init ."
    assert hint(sys.executable, "-m", "extproc", cwd=tmp_path) == f"{sys.executable} -m extproc init ."


def test_a_hint_that_names_a_path(tmp_path: Path) -> None:
    """The path is quoted, so that the command does what it says."""
    directory = tmp_path / "a b;reboot"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(JournalError) as raised:
        open_directory(directory)
    command = str(raised.value).partition("run: ")[2]
    subprocess.run(["/bin/sh", "-e"], input=command.encode(), check=True)
    assert directory.stat().st_mode & 0o777 == 0o755


def test_a_command_with_a_path() -> None:
    """Words stay as they are, paths are quoted."""
    assert shell.command("log", "--data-dir", Path("my data")) == "extproc log --data-dir 'my data'"
