"""What the page does beside reading: requests put into quarantine and taken out, and one sent again to a test server.

    actions = Actions(source, {"gpu-test": "http://gpu-test:8000"})
    await actions.add("20261128-031207-3f1c2a", expires="2h", mode="shadow")
    await actions.replay("019aa3f2", "gpu-test")

Each is a command of ours in a process of its own, so that it does here what it does on a command line. None of them
writes to the journal. Whoever asks has a token, which `guard` sees to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from extproc.errors import ConfigError
from extproc.history import now
from extproc.history.answers import Answers
from extproc.incidents.incident import ID
from extproc.page.commands import CommandFailed, printed
from extproc.page.source import PageSource
from extproc.page.types import Held
from extproc.quarantine import entries
from extproc.quarantine.entries import Mode
from extproc.replay import addresses

Json = dict[str, Any]

_AGE: Final = re.compile(r"[0-9]{1,6}[smhd]|never")
_ENTRY: Final = re.compile(r"q-[0-9a-f]{1,32}")


class Refused(ConfigError):
    """It was not done. The text says why."""


class Actions:
    """On one data directory. `servers`: by name, those to which requests may be sent."""

    def __init__(self, source: PageSource, servers: Mapping[str, str]) -> None:
        self.servers = servers
        self._source = source
        self._sending = asyncio.Lock()

    def held(self) -> Held:
        """What is in quarantine. It waits for files."""
        found = entries.load(self._directory)
        mode = None if found.mode is None else found.mode.value
        return Held(mode, [_shown(entries.fields(each), redact=self._source.redact) for each in found.entries])

    async def add(self, id: str, *, expires: str, mode: str | None) -> Json:
        """Put requests like an exchange's, or like an incident's first suspect, into quarantine: the entry."""
        if not _AGE.fullmatch(expires):
            raise ConfigError(f"expires: expected 30m, 24h, 7d or never, got {expires!r}")
        if mode is not None and mode not in {each.value for each in Mode}:
            raise ConfigError(f"mode: expected {', '.join(each.value for each in Mode)}, got {mode!r}")
        whole = id if ID.fullmatch(id) else await asyncio.to_thread(self._source.whole_id, id)
        words = ("quarantine", "add", whole, "--json", "--expires", expires, *(("--mode", mode) if mode else ()))
        return _object(await self._said(words))

    async def remove(self, entry: str) -> None:
        """Take an entry out."""
        if not _ENTRY.fullmatch(entry):
            raise LookupError(f"there is no entry {entry!r} in quarantine")
        await self._said(("quarantine", "remove", entry))

    async def replay(self, id: str, server: str) -> Json:
        """Send an exchange's request to a server, one after the other, and say what came of it."""
        url = self.servers.get(server)
        if url is None:
            raise LookupError(f"no server is named {server!r}: --replay-to names them")
        whole = await asyncio.to_thread(self._source.whole_id, id)
        async with self._sending:
            await asyncio.to_thread(self._refuse_production, whole, url)
            return _object(await self._said(("replay", whole, "--to", url, "--no-credentials", "--json")))

    def _refuse_production(self, id: str, url: str) -> None:
        """What may kill a server is not sent to one that serves."""
        with Answers(self._source.directories) as asked:
            found = [*asked.find(id), *now.exchanges(self._source.directories, asked)]
        for upstream in {each.upstream for each in found if each.upstream}:
            if addresses.same(url, upstream):
                raise Refused(f"{url} is {upstream}, a backend of this journal; name a test server")

    @property
    def _directory(self) -> Path:
        directories = self._source.directories
        if len(directories) > 1:
            raise Refused("each data directory has a quarantine of its own: serve a page for one")
        return directories[0]

    async def _said(self, words: Sequence[str]) -> bytes:
        try:
            return await printed(words, [self._directory])
        except CommandFailed as error:
            raise Refused(str(error)) from None


def _object(line: bytes) -> Json:
    return msgspec.json.decode(line, type=Json)


def _shown(entry: Json, *, redact: bool) -> Json:
    atom = entry["atom"]
    return entry if atom is None or not redact else {**entry, "atom": {**atom, "value": None}}
