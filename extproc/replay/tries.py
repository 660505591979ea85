"""What was tried, in a file: a search that was ended goes on where it was, and no server dies twice for one question.

One JSON object a line, appended as soon as a try is over:

    {"try": HASH, "killed": true, "sent": 1, "before": [["in turn", [ID, ...]], ...], "said": "..."}

HASH is that of everything that was sent and of where to, and of how often the same had been tried before. A line that
is no such object is passed over: it may have been cut.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from extproc.replay.search import Attempt, How, Result


class Tries:
    """The tries of one search. `path`: where they are kept; None: nowhere."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        """How many there were, those of an earlier run included."""
        self.kills = 0
        self.restarts = 0
        """How often a server that lived was started anew for a try."""
        self.remembered = 0
        """How many of them did not have to be made again."""
        self._known: dict[str, dict[str, Any]] = dict(_read(path))
        self._times: Counter[str] = Counter()

    @property
    def known_tries(self) -> int:
        """How many an earlier run has left."""
        return len(self._known)

    def key(self, parts: Iterable[bytes]) -> str:
        """The hash of a try that is about to be made."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(b"%d:" % len(part) + part)
        name = digest.hexdigest()
        self._times[name] += 1
        return f"{name[:32]}.{self._times[name]}"

    def known(self, key: str) -> tuple[Result, str] | None:
        """What came of it, if it was made."""
        found = self._known.get(key)
        if found is None:
            return None
        self.remembered += 1
        self._count(killed=bool(found["killed"]))
        self.restarts += bool(found.get("restarted"))
        before = tuple(Attempt(tuple(ids), How(how)) for how, ids in found["before"])
        return Result(bool(found["killed"]), before, found["sent"]), str(found["said"])

    def made(self, key: str, result: Result, said: str, *, restarted: bool = False) -> None:
        """Keep what came of it."""
        self._count(killed=result.killed)
        self.restarts += restarted
        if self.path is None:
            return
        before = [[each.how.value, each.ids] for each in result.before]
        line = {
            "try": key,
            "killed": result.killed,
            "sent": result.sent,
            "before": before,
            "said": said,
            "restarted": restarted,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _count(self, *, killed: bool) -> None:
        self.count += 1
        self.kills += killed


def _read(path: Path | None) -> Iterable[tuple[str, dict[str, Any]]]:
    if path is None or not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
            kept = {name: found[name] for name in ("killed", "sent", "before", "said")}
            yield str(found["try"]), kept | {"restarted": found.get("restarted", False)}
        except (ValueError, KeyError, TypeError):
            continue
