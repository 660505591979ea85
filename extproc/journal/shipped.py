"""Which segments have been shipped to a bucket: `<data>/ship/STEM.json` for each that has, as long as it is here.

    shipped.is_shipped(directory, "w0-0193c0de-000001")

`extproc/fleet` writes these files, says in them what the bucket has, and removes those of segments that are gone;
retention asks whether they are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = "ship"
MARK: Final = ".json"


def path_of(directory: Path, stem: str) -> Path:
    """The file that says that this segment has been shipped."""
    return directory / DIRECTORY / f"{stem}{MARK}"


def is_shipped(directory: Path, stem: str) -> bool:
    """Whether all of a segment is in the bucket."""
    return path_of(directory, stem).exists()
