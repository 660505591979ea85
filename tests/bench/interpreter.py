"""Which Python servers run on in the bench: Debian's where it takes our packages, else the one that runs the bench.

A distribution's Python is built with profile-guided optimization, and is what most people have. One of the same
version takes the packages of our environment as they are.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.processes import TESTS

DEBIAN: Final = Path("/usr/bin/python3")
_SAYS: Final = "import platform, sys; print(*sys.version_info[:2]); print(platform.python_version())"


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """A Python, in words, and what it needs in its environment."""

    path: Path
    words: str
    environ: Mapping[str, str]


def own() -> Interpreter:
    """The one that runs this."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    version = ".".join(map(str, sys.version_info[:3]))
    return Interpreter(Path(sys.executable), f"Python {version} {'with' if optimized else 'without'} PGO", {})


def debian(path: Path = DEBIAN) -> Interpreter | None:
    """Debian's; None where there is none of our version."""
    if not path.exists():
        return None
    said = subprocess.run([path, "-c", _SAYS], capture_output=True, text=True, check=True).stdout.splitlines()
    if said[0].split() != [str(each) for each in sys.version_info[:2]]:
        return None
    return Interpreter(path, f"Debian's Python {said[1]}", {"PYTHONPATH": f"{TESTS}:{sysconfig.get_path('purelib')}"})


def chosen(name: str) -> Interpreter:
    """By the option's word. SystemExit where there is none."""
    found = debian() if name in ("debian", "best") else None
    if found is None and name == "debian":
        raise SystemExit(f"--python debian: {DEBIAN} is not there, or of another version than {sys.version_info[:2]}")
    return found or own()
