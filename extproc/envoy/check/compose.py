"""How a compose file starts Envoy: without one flag, a misspelt field in routes.yaml is 404 for everything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from extproc.envoy.config import source
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import get

_NAMES: Final = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_FLAG: Final = "--reject-unknown-dynamic-fields"


def findings(directory: Path) -> Iterator[Finding]:
    """Those of the compose files in a directory. One that is no YAML is compose's to complain of."""
    for name in _NAMES:
        path = directory / name
        try:
            read = source.parse(path.read_bytes(), str(path))
        except (OSError, source.SyntaxProblem):
            continue
        services = get(read.value, "services")
        for service in services if isinstance(services, dict) else ():
            at = ("services", service, "command")
            words = _words(get(read.value, *at))
            if words[:1] == ["envoy"] and _FLAG not in words:
                text = f"Envoy is started without {_FLAG}: a misspelt field in routes.yaml would be 404 for everything"
                yield Finding(Level.ERROR, read.places.of(at), text, at)


def _words(command: Any) -> list[str]:
    try:
        return shlex.split(command) if isinstance(command, str) else list(map(str, command))
    except (ValueError, TypeError):
        return []  # an open quote, or no command
