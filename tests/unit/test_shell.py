"""Words for a shell: each is exactly one, and the shell runs nothing in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import shell

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
