"""Words for a POSIX shell: the one place that quotes what a script or a hint hands to a reader to run.

Whatever the word holds, the shell takes it for this one word and runs nothing in it. What is written is printable
and fits on a line, so that it can be read on a terminal and copied from there; bytes that are not printable are
octal escapes that `printf` gives back.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,@%+-]+")
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/?&= ,;+")


def quote(word: str | bytes) -> str:
    """The word in single quotes, always. Raises ValueError for a NUL, which no argument of a program can hold.

    Line feeds at the end stand as they are: a command substitution would drop them.
    """
    raw = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
    if b"\0" in raw:
        raise ValueError("a NUL byte cannot be part of a command line")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return literal(text)
    body = raw.rstrip(b"\n")
    # The format is ours, so that no percent sign and no leading dash of the word is taken for a part of it.
    escaped = "".join(chr(byte) if byte in _SAFE else f"\\0{byte:03o}" for byte in body)
    return f"\"$(printf %b '{escaped}')\"" + ("" if body == raw else literal("\n" * (len(raw) - len(body))))


def literal(text: str) -> str:
    """The text as it is, over several lines if it has them, in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def path(path: Path) -> str:
    """A path in a hint: as it is where no shell sees anything in it, else quoted. No program takes it for an option."""
    raw = os.fsencode(path)
    if raw.startswith(b"-"):
        raw = b"./" + raw
    plain = raw.decode("ascii", "replace")
    return plain if _PLAIN.fullmatch(plain) else quote(raw)


def command(*words: str | Path) -> str:
    """A command of ours in a hint, named as this process was started: what was typed once can be typed again."""
    return " ".join([_program(), *(path(word) if isinstance(word, Path) else word for word in words)])


def _program() -> str:
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("extproc", "__main__.py"):
        return f"{path(Path(sys.orig_argv[0]))} -m extproc"
    found = shutil.which("extproc")
    if started.name != "extproc" or (found and os.path.realpath(found) == os.path.realpath(started)):
        return "extproc"
    return path(started)
