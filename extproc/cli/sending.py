"""What commands that send requests take from their command line: a server, headers, credentials."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from extproc.core.redact import parameter_name
from extproc.replay.request import TOKEN


class Server(click.ParamType[str]):
    """The URL of a server: where to, and nothing about what."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form."""
        try:
            parts = urllib.parse.urlsplit(value)
            fine = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
            fine = fine and not parts.query and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            fine = False
        if not fine:
            self.fail(f"expected http://HOST:PORT (the path is the recorded one), got {value!r}", param, ctx)
        return str(value).rstrip("/")


def given_headers(texts: Sequence[str], files: Sequence[Path]) -> list[tuple[str, bytes]]:
    """`K: V` from the command line and from files, in which empty lines and lines with # are passed over."""
    lines = [(text, "--header") for text in texts]
    for path in files:
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{path}: is not UTF-8 text") from error
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                lines.append((line, f"{path}:{number}"))
    return [_given_header(text, place) for text, place in lines]


def _given_header(text: str, place: str) -> tuple[str, bytes]:
    name, colon, value = text.partition(":")
    # The text is not repeated: it is most likely a credential.
    if not colon or not TOKEN.fullmatch(name.strip()) or re.search(r"[\r\n\0]", value):
        raise click.UsageError(f"{place}: expected 'Name: value'")
    return name.strip().lower(), value.strip().encode()


def given_credentials(texts: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=ENV` from the command line: the variables of each name, in their order."""
    credentials: dict[str, list[str]] = {}
    for text in texts:
        name, _, variable = text.rpartition("=")
        # Neither is repeated: somebody may well have written the credential itself.
        if not name or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise click.UsageError("--credential: expected NAME=ENV, ENV the name of a variable that holds it")
        credentials.setdefault(parameter_name(name), []).append(variable)
    return credentials
