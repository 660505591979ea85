"""A worker's view of the quarantine: one look-up a held request, which costs nothing where there are no entries.

    guard = Guard(data_dir, Mode.SHADOW)
    guard.watch()                                        # a thread looks at the file's time
    if guard.active and (found := guard.look_up(head, body, cluster)): ...

The file is read by the thread, and the view replaced as a whole: whoever looks up holds no lock.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from extproc.core import dialects, encoding
from extproc.core.head import Head
from extproc.core.reading import RequestReader
from extproc.core.records import RequestLlm
from extproc.errors import ConfigError
from extproc.incidents import atoms
from extproc.quarantine import entries
from extproc.quarantine.entries import Entry, Mode, Quarantine

log = logging.getLogger("extproc.quarantine")

LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Match:
    """An entry that names a request, and what is to happen to it."""

    entry: Entry
    mode: Mode


class Guard:
    """The quarantine of one worker. `default`: the mode where the file says none."""

    def __init__(self, directory: Path, default: Mode) -> None:
        self.active = False
        """There is something to look up."""
        self.counts: Counter[str] = Counter()
        """Requests that were found, by what happened to them."""
        self._directory = directory
        self._default = default
        self._stamp: tuple[int, ...] | None = None
        self._found = Quarantine()
        self._by_fingerprint: dict[str, list[Entry]] = {}
        self._by_atom: list[tuple[bytes, Entry]] = []
        self._by_body: dict[str, Entry] = {}

    def watch(self) -> None:
        """Follow the file from now on."""
        self.refresh()
        threading.Thread(target=self._follow, name="quarantine", daemon=True).start()

    def refresh(self) -> None:
        """Read the file, if it is another one. One that is none changes nothing, and is complained of once."""
        stamp = entries.stamp(self._directory)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._found = entries.load(self._directory)
            except ConfigError as error:
                log.error("the quarantine stays as it was: %s", error)  # noqa: TRY400 - the text is complete
                return
        self._take()

    def look_up(self, head: Head, body: bytes, cluster: str | None) -> Match | None:
        """The entry that names a request, by its whole body. Counts it."""
        if self._by_body and (entry := self._by_body.get(hashlib.sha256(body).hexdigest())) is not None:
            return self._matched(entry)
        if not (self._by_fingerprint or self._by_atom):
            return None
        llm = _read(head, body)
        if llm is None:
            return None
        for entry in self._by_fingerprint.get(llm.fingerprint or "", ()):
            if entry.concerns(llm.model, cluster):
                return self._matched(entry)
        possible = [entry for name, entry in self._by_atom if name in body and entry.concerns(llm.model, cluster)]
        if not possible:
            return None
        there = atoms.of(head.path or "", body, llm.params, len(body))
        return next((self._matched(each) for each in possible if each.names(None, there)), None)

    @staticmethod
    def fingerprint(head: Head, body: bytes) -> str | None:
        """By which an entry would name a request."""
        llm = _read(head, body)
        return None if llm is None else llm.fingerprint

    def _matched(self, entry: Entry) -> Match:
        mode = entry.mode or self._found.mode or self._default
        self.counts[mode.value] += 1
        return Match(entry, mode)

    def _take(self) -> None:
        """Sort what is valid now."""
        now = datetime.now(UTC)
        by_fingerprint: dict[str, list[Entry]] = {}
        by_atom: list[tuple[bytes, Entry]] = []
        by_body: dict[str, Entry] = {}
        for each in self._found.entries:
            mode = each.mode or self._found.mode or self._default
            if mode is Mode.OFF or each.is_over(now):
                continue
            if each.body is not None:
                by_body[each.body] = each
            elif each.atom is not None:
                # Every place but those about all of a request begins with the name of one of its members.
                name = each.atom[0].partition(" ")[0].partition(".")[0].partition("[")[0]
                by_atom.append((b"" if name in ("size", "path", "nesting", "body") else name.encode(), each))
            elif each.fingerprint is not None:
                by_fingerprint.setdefault(each.fingerprint, []).append(each)
        self._by_fingerprint, self._by_atom, self._by_body = by_fingerprint, by_atom, by_body
        self.active = bool(by_fingerprint or by_atom or by_body)

    def _follow(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            self.refresh()


def _read(head: Head, body: bytes) -> RequestLlm | None:
    api = dialects.api_of(head.method, head.path or "")
    if api is None or encoding.names_of(head.content_encoding):
        return None
    reader = RequestReader(dialects.RequestReading(api, head.content_type, head.content_encoding))
    reader.feed(body)
    return reader.finish(complete=True)
