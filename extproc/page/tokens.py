"""Who may read: the lines `NAME:TOKEN` of a file.

tokens = load(path)          # ConfigError, with the line that is wrong
tokens.name_of("Bearer ...") # the name; None where nobody has this token
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.errors import ConfigError

SHORTEST: Final = 16
"""Characters of a token: fewer can be guessed."""
_LINE: Final = re.compile(r"([A-Za-z0-9._@-]+):([\x21-\x7e]+)")
_SCHEME: Final = "Bearer "


@dataclass(frozen=True, slots=True)
class Tokens:
    """Names with their tokens."""

    known: Sequence[tuple[str, str]]

    def name_of(self, authorization: str) -> str | None:
        """Whose token an `authorization` header has."""
        if not authorization.startswith(_SCHEME):
            return None
        given = authorization.removeprefix(_SCHEME).encode()
        # All are compared, so that the time says nothing of which was close.
        found = [name for name, token in self.known if hmac.compare_digest(token.encode(), given)]
        return found[0] if found else None


def load(path: Path) -> Tokens:
    """Read the file. Empty lines and those that begin with # are none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    known = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or len(match[2]) < SHORTEST:
            raise ConfigError(f"{path}:{number}: expected NAME:TOKEN, the token of {SHORTEST} characters or more")
        known.append((match[1], match[2]))
    if not known:
        raise ConfigError(f"{path}: there is no token in it; expected lines of NAME:TOKEN")
    return Tokens(known)
