"""The names of the objects, made and taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from extproc.journal.segment import COMPRESSED, Name

VERSION: Final = "v1"
RAW: Final = f"{VERSION}/raw"
EXCHANGES: Final = f"{VERSION}/exchanges"
BODIES: Final = f"{VERSION}/bodies"
ERASURES: Final = f"{VERSION}/erasures"

_WITHIN: Final = r"dt=(\d{4}-\d{2}-\d{2})/host=([0-9A-Za-z][0-9A-Za-z._-]*)/(w\d[0-9A-Za-z-]*)"
_RAW: Final = re.compile(rf"{RAW}/{_WITHIN}{re.escape(COMPRESSED)}")
_PACK: Final = re.compile(rf"{BODIES}/{_WITHIN}(?:\.\d+)?\.pack")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where the objects of one segment are."""

    dt: str
    """The day at the head of the segment, in UTC."""
    host: str
    stem: str

    @classmethod
    def of_raw(cls, path: str) -> Self | None:
        """The place of a segment's own object; None for any other object."""
        match = _RAW.fullmatch(path)
        return None if match is None or Name.parse(match[3] + COMPRESSED) is None else cls(match[1], match[2], match[3])

    @property
    def raw(self) -> str:
        return f"{RAW}/{self._within}{COMPRESSED}"

    @property
    def exchanges(self) -> str:
        return f"{EXCHANGES}/{self._within}.parquet"

    def pack(self, part: int = 1) -> str:
        """Where body files are; those of one segment may need several packs."""
        return f"{BODIES}/{self._within}{f'.{part}' if part > 1 else ''}.pack"

    @classmethod
    def of_pack(cls, path: str) -> Self | None:
        """The place of the segment to which a pack belongs; None for any other object."""
        match = _PACK.fullmatch(path)
        return None if match is None else cls(match[1], match[2], match[3])

    @property
    def name(self) -> Name:
        """The segment's name as a file."""
        name = Name.parse(self.stem + COMPRESSED)
        assert name is not None
        return name

    @property
    def _within(self) -> str:
        return f"dt={self.dt}/host={self.host}/{self.stem}"
