"""What backends said of themselves, kept at each of their starts: a small file, `<data>/follow/backends.json`.

    kept = Kept(directory / FILE_NAME, every)           # the prober's
    kept.answered(upstream, answer, now)                # or kept.silent(upstream)
    kept.save()

    known = backends.load(directories)                  # whoever tells of an incident
    start = known.running(upstream, at, since)          # None: nothing is known of what ran there then

The file is replaced as a whole. One that is damaged is begun anew: what it said is not known any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from extproc.incidents import state

FILE_NAME: Final = "backends.json"
DIRECTORY: Final = "follow"
MOST_BACKENDS: Final = 1000
MOST_STARTS: Final = 20
"""Of one backend: those seen last."""
MOST_ARGUMENTS: Final = 5
"""Of one backend so many starts keep their arguments, which are most of the file."""
_SAME_SECONDS: Final = 1.0
"""Two times of a start that lie so close are one."""
_GRACE_SECONDS: Final = 60.0
_MISSED: Final = 3
"""So many answers in a row may be missing before nothing is known of a backend."""

Argument = str | int | float | bool


class Answer(msgspec.Struct, frozen=True):
    """What a backend said when it was asked; None and empty: it did not say."""

    engine: str | None = None
    version: str | None = None
    started_at: float | None = None
    """When its process began, seconds since 1970, by its own clock."""
    models: list[str] = []
    arguments: dict[str, Argument] = {}
    mark: str | None = None
    """Another one after each start, where that is said in no other way."""
    done: float | None = None
    """How much work it has done since its start, by a counter of its own."""


class Start(msgspec.Struct, frozen=True):
    """A backend from one start to the next."""

    answer: Answer
    first_seen: float
    last_seen: float
    silent: bool = False
    """It did not answer when it was asked last."""

    @property
    def began(self) -> float:
        """From when on it is known to have run."""
        return min(self.first_seen, self.answer.started_at or self.first_seen)


class _File(state.File):
    every: float
    backends: dict[str, list[Start]]


class Kept:
    """The file of one data directory, for one thread. `every`: how often backends are asked, in seconds."""

    def __init__(self, path: Path, every: float) -> None:
        self._path = path
        found = state.load(path, _File)
        self._file = _File(every, {} if found is None else found.backends)
        self._changed = False

    def running(self, upstream: str) -> Start | None:
        """The last start of a backend that is known."""
        starts = self._file.backends.get(upstream)
        return starts[-1] if starts else None

    def is_new(self, upstream: str, answer: Answer) -> bool:
        """Whether a backend that answers so has been started since it answered last."""
        before = self.running(upstream)
        return before is None or _is_another(before, answer)

    def answered(self, upstream: str, answer: Answer, now: float) -> None:
        """A backend said this of itself: it was started anew, or is the same, of which more may be known now."""
        before = self._file.backends.pop(upstream, [])
        if not before or _is_another(before[-1], answer):
            starts = [*before, Start(answer, now, now)]
        else:
            starts = [*before[:-1], Start(_together(before[-1].answer, answer), before[-1].first_seen, now)]
        self._file.backends[upstream] = _bounded(starts)  # the last one: those that are there are kept longest
        for gone in list(self._file.backends)[:-MOST_BACKENDS]:
            del self._file.backends[gone]
        self._changed = True

    def silent(self, upstream: str) -> None:
        """A backend did not answer."""
        starts = self._file.backends.get(upstream)
        if starts and not starts[-1].silent:
            starts[-1] = msgspec.structs.replace(starts[-1], silent=True)
            self._changed = True

    def save(self) -> None:
        """Replace the file, if anything is to be kept."""
        if self._changed and state.save(self._path, self._file, "what backends said"):
            self._changed = False


class Known:
    """What is known of the backends of some data directories."""

    def __init__(self, files: Iterable[_File] = ()) -> None:
        self._starts: dict[str, list[tuple[float, Start]]] = {}
        for file in files:
            grace = file.every * _MISSED + _GRACE_SECONDS
            for upstream, starts in file.backends.items():
                self._starts.setdefault(upstream, []).extend((grace, each) for each in starts)

    def running(self, upstream: str, at: float, since: float | None) -> Start | None:
        """The start that was running at a moment. `since`: when the backend was back, as the journal has it: a start
        that was not seen after that is an earlier one."""
        those = [
            each
            for grace, each in self._starts.get(upstream, ())
            if each.began <= at <= each.last_seen + grace and (since is None or each.last_seen >= since)
        ]
        return max(those, key=lambda each: each.began, default=None)


def load(directories: Sequence[Path]) -> Known:
    """What is kept in data directories."""
    found = (state.load(each / DIRECTORY / FILE_NAME, _File) for each in directories)
    return Known(each for each in found if each is not None)


def _is_another(before: Start, answer: Answer) -> bool:
    """By the time of its start or its mark, where both are known: a server that was frozen is the same. Else by a
    counter that has fallen, or by its silence."""
    known = before.answer
    if known.version and answer.version and known.version != answer.version:
        return True
    if known.started_at is not None and answer.started_at is not None:
        return abs(known.started_at - answer.started_at) > _SAME_SECONDS
    if known.mark is not None and answer.mark is not None:
        return known.mark != answer.mark
    return before.silent or (known.done is not None and answer.done is not None and answer.done < known.done)


def _together(before: Answer, now: Answer) -> Answer:
    return Answer(
        now.engine or before.engine,
        now.version or before.version,
        before.started_at if before.started_at is not None else now.started_at,
        now.models or before.models,
        now.arguments or before.arguments,
        now.mark or before.mark,
        before.done if now.done is None else now.done,
    )


def _bounded(starts: Sequence[Start]) -> list[Start]:
    kept = list(starts[-MOST_STARTS:])
    return [_without_arguments(each) for each in kept[:-MOST_ARGUMENTS]] + kept[-MOST_ARGUMENTS:]


def _without_arguments(start: Start) -> Start:
    return msgspec.structs.replace(start, answer=msgspec.structs.replace(start.answer, arguments={}))
