"""What the follower has reported: a small file, so that a restart reports nothing twice and loses nothing.

The file is `<data>/follow/incidents.json`, replaced as a whole. All in it can be made again from the journal, but for
what was reported, and whether it was delivered. One that is damaged is begun anew: what lies before that moment is then
not reported again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from extproc.incidents import live, state

FILE_NAME: Final = "incidents.json"
MOST: Final = 200


class Report(msgspec.Struct, frozen=True):
    """An incident as it was reported last."""

    id: str
    upstream: str
    at: float
    until: float
    fields: dict[str, Any]
    """As `extproc incidents --json` prints it."""
    redacted: dict[str, Any]
    delivered: bool = True
    """Nothing of it waits for the webhook."""
    broke_at: float | None = None
    """When it first broke something, if it was a death."""
    trace: str = ""
    """That of its first suspect, when it was reported first."""
    declined: tuple[str, ...] = ()
    """What its backend declined just before: that may have done it, and was not served."""

    @property
    def gist(self) -> tuple[str, str | None, bool]:
        """What is worth a word when it changes: the class, the first suspect, and whether it lasts."""
        suspects = self.fields["suspects"]
        return str(self.fields["class"]), suspects[0]["exchange"] if suspects else None, self.lasts

    @property
    def lasts(self) -> bool:
        """It is a hang that is not over, as far as was known."""
        return self.fields["class"] == "hang" and self.fields.get("ended_at") is None

    @property
    def gist_mark(self) -> str:
        """The same for the same gist."""
        return hashlib.sha256(repr(self.gist).encode()).hexdigest()[:8]


class _File(state.File):
    since: float
    reports: list[Report]


class Kept:
    """`now`: from when on there is something to report, where there is no file yet."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._lock = threading.RLock()
        found = state.load(path, _File)
        self.since = now if found is None else found.since
        """What befell a backend before is not reported."""
        self._reports = {} if found is None else {each.id: each for each in found.reports}
        if found is None:
            self._save()

    def __iter__(self) -> Iterator[Report]:
        return iter(list(self._reports.values()))

    def delivered(self, id: str) -> None:
        """Nothing of the report of this id waits any more. For any thread."""
        with self._lock:
            if id in self._reports:
                self.put(msgspec.structs.replace(self._reports[id], delivered=True))

    def of(self, upstream: str, at: float) -> Report | None:
        """The report of what befell a backend at a moment."""
        those = (each for each in self._reports.values() if each.upstream == upstream)
        return next((each for each in those if live.is_same(at, each.at, each.until)), None)

    def put(self, report: Report) -> None:
        """Keep a report, in the place of what has its id."""
        with self._lock:
            self._reports[report.id] = report
            for id in list(self._reports)[:-MOST]:
                del self._reports[id]
            self._save()

    def _save(self) -> None:
        state.save(self._path, _File(self.since, list(self._reports.values())), "what was reported")
