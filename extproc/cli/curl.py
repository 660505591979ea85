"""A recorded request as a shell script of one curl command that sends it, to the byte.

Everything that a client chose stands in single quotes (`extproc.shell`). What stands in double quotes is a variable
whose name the operator gave with `--credential`; the script ends before curl runs where one of them is not set.
"""

from __future__ import annotations

import base64
from typing import Final

from extproc import shell
from extproc.cli import output
from extproc.errors import ExtprocError
from extproc.replay.request import Request, Text, Variable

PLACEHOLDER: Final = "replace-me.invalid"
"""Stands for the server where none was named: a name that never resolves (RFC 2606)."""


def script(request: Request, to: str | None) -> str:
    """The script, for the server at the URL `to`. Any POSIX shell runs it.

    Raises ExtprocError where a part of the request holds a NUL, which no command line can carry.
    """
    try:
        return "\n".join([*_comments(request, to), *_checks(request), _command(request, to), ""])
    except ValueError as error:
        raise ExtprocError(f"{request.id}: {error}") from error


def _comments(request: Request, to: str | None) -> list[str]:
    lines = [f"# {output.escape(request.id)}, recorded {output.escape(request.started_at)}"]
    if to is None:
        lines.append(f"# It was sent to {_shown(request.authority)}; write your test server for {PLACEHOLDER}.")
    lines += [f"# Not recorded and left out: {_shown(name)}" for name in request.missing]
    return lines


def _shown(text: str) -> str:
    return shell.quote(output.escape(text))


def _checks(request: Request) -> list[str]:
    lines = []
    for variable in request.variables:
        value = f"${{{variable.name}:?is not set}}"
        lines.append(f': "{value}"')
        if variable.bearer:
            lines.append(
                f'case ${variable.name} in *" "*) {_scheme(variable)}= ;; *) {_scheme(variable)}="Bearer " ;; esac'
            )
    return lines


def _scheme(variable: Variable) -> str:
    """The name of the variable for what stands before a token that is given alone."""
    return f"{variable.name}_SCHEME"


def _command(request: Request, to: str | None) -> str:
    words = [
        "curl --silent --show-error --no-buffer --globoff --path-as-is",
        f"--request {shell.quote(request.method)}",
    ]
    words += _target(request, to or f"{request.scheme}://{PLACEHOLDER}")
    words += [f"--header {_header(name, text)}" for name, text in request.headers]
    sent = {name for name, _ in request.headers}
    # What curl would add of its own; "Expect" would hold a large body back.
    added = ["accept", "user-agent", "expect", *(["content-type"] if request.body else [])]
    words += [f"--header '{name}:'" for name in added if name not in sent]
    before, after = "", ""
    if request.body:
        words.append("--data-binary @-")
        before, after = _body(request.body)
    return before + " \\\n  ".join(words) + after


def _target(request: Request, origin: str) -> list[str]:
    """The URL, and the target beside it where curl would read it otherwise: as a part of the host, or to be cut off."""
    parts = request.target
    start, whole = parts[0], b"".join(part for part in parts if isinstance(part, bytes))
    if isinstance(start, bytes) and start.startswith(b"/") and b"#" not in whole:
        return [f"--url {_word((origin.encode() + start, *parts[1:]))}"]
    return [f"--url {_word((origin.encode(), b'/'))}", f"--request-target {_word(parts)}"]


def _header(name: str, text: Text) -> str:
    """The word of a header; curl wants `name;` for one that is empty."""
    if all(isinstance(part, bytes) and not part.strip() for part in text):
        return shell.quote(f"{name};")
    return _word((name.encode() + b": ", *text))


def _word(text: Text) -> str:
    """One word of the shell for this text."""
    word, literal = "", b""
    for part in text:
        if isinstance(part, Variable):
            scheme = f"${{{_scheme(part)}}}" if part.bearer else ""
            word += (shell.quote(literal) if literal else "") + f'"{scheme}${{{part.name}}}"'
            literal = b""
        else:
            literal += part
    return word + (shell.quote(literal) if literal or not word else "")


def _body(body: bytes) -> tuple[str, str]:
    """What stands before and after the command so that it reads exactly these bytes."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    # What would change in a terminal or in a copy of it is not shown as it is.
    if output.escape_text(text) == text and "\t" not in text:
        return f"printf %s {shell.literal(text)} | ", ""
    encoded = base64.encodebytes(body).decode("ascii")
    return "base64 -d <<'END_OF_BODY' | ", f"\n{encoded}END_OF_BODY"
