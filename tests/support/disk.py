"""A disk that loses its power: from the calls that a program made, every state that a crash may have left behind.

What counts as kept is only what a sync has covered:

* the bytes and the length of a file, once `fsync` or `fdatasync` of that file, begun after the write had ended, has
  ended itself (or once the write has, on a file opened with O_SYNC or O_DSYNC);
* the entry of a file in its directory, once that directory was synced, and the entry of that directory in its parent.

Of all else any part may be there and any part missing, in any order: a write whole, not at all, cut off or with holes
of zeros at multiples of 512 or of 4,096 bytes; each entry made, each entry removed; a rename, which is one step, done
or not. A call that was being carried out is one of those.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from support.syscalls import Call, Event

SECTORS: Final = (512, 4096)
RANDOM_STATES: Final = 6
"""For each moment, beside the systematic ones."""
_CURRENT: Final = -100
_PATHS: Final = {"open": 1, "mkdir": 1, "rmdir": 1, "unlink": 1, "rename": 2, "link": 2}
"""How many paths a call names."""
_UNKNOWN: Final = {
    **dict.fromkeys(["writev", "pwritev", "pwritev2", "fallocate", "sendfile"], 0),
    "copy_file_range": 2,
    "splice": 2,
    "mmap": 4,
}
"""What changes a file in a way that is not modelled, and which argument is the file."""


@dataclass(eq=False, slots=True)
class Change:
    """Something done to a file or a directory that no sync has covered yet."""

    done: bool = False


@dataclass(eq=False, slots=True)
class Write(Change):
    """Bytes at a place."""

    offset: int = 0
    data: bytes = b""


@dataclass(eq=False, slots=True)
class Truncate(Change):
    """A new length."""

    size: int = 0


@dataclass(eq=False, slots=True)
class Entry(Change):
    """A name of a directory given (`new`), taken (`old`), or both in one step: renamed."""

    node: Node | None = None
    old: str | None = None
    new: str | None = None


@dataclass(eq=False, slots=True)
class Node:
    """A file: what is on disk for sure, and what may be."""

    kept: bytes = b""
    size: int = 0
    """As the running program sees it."""
    pending: list[Change] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Folder(Node):
    """A directory: the entries that are on disk for sure, and those that the running program sees."""

    sure: dict[str, Node] = field(default_factory=dict)
    now: dict[str, Node] = field(default_factory=dict)


@dataclass(slots=True)
class _Handle:
    node: Node
    appends: bool = False
    syncs: bool = False
    offset: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What a crash left behind: each path with its bytes, a directory with None."""

    moment: int
    """The number of the event after which the power went."""
    after: str
    """That event, for the message of a test that fails."""
    how: str
    files: dict[str, bytes | None]
    sure: dict[str, int]
    """How many bytes of each file were synced: what is damaged behind them was promised to nobody."""
    said: tuple[list[str], ...]
    """The words of each line that the program had written to its standard output, without the root's name before."""

    def write(self, root: Path) -> Path:
        """Make these files under `root`, which must not exist."""
        root.mkdir(mode=0o700)
        for path, data in sorted(self.files.items()):
            if data is None:
                (root / path).mkdir(mode=0o700)
            else:
                (root / path).write_bytes(data)
        return root

    def __str__(self) -> str:
        files = ", ".join(f"{path} ({len(data)})" for path, data in sorted(self.files.items()) if data is not None)
        return f"power lost at event {self.moment}, after {self.after}; {self.how}; left: {files}"


class Disk:
    """Replays a trace on what is below `root`. Files that are there before it begins are `before`, and are synced.

    What the program writes to its standard output is heard where a line begins with the root's name.
    """

    def __init__(self, root: Path, before: dict[str, bytes | None] | None = None) -> None:
        self._root = PurePosixPath(root)
        self._top = Folder()
        self._handles: dict[int, _Handle] = {}
        self._covered: dict[int, tuple[Node, list[Change]]] = {}
        self._begun: dict[int, list[Change]] = {}
        self._said: list[list[str]] = []
        for path, data in sorted((before or {}).items()):
            folder, name = self._place(self._root / path)
            node = Folder() if data is None else Node(data, len(data))
            folder.now[name] = folder.sure[name] = node

    def states(self, events: Sequence[Event], seed: int = 0) -> Iterator[State]:
        """Each state that differs from those of the moment before, at each moment."""
        for moment, (what, call) in enumerate(events):
            changed = self._begin(call) if what == "begun" else self._end(call)
            if changed:
                yield from self._at(moment, f"{what} {call.name}", random.Random(seed * 1_000_003 + moment))

    # What the calls do -----------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> bool:
        if call.result is not None and call.result < 0:
            return False
        if call.name in {"fsync", "fdatasync"}:
            handle = self._handles.get(call.number(0))
            if handle is not None:
                done = [change for change in handle.node.pending if change.done]
                self._covered[id(call)] = handle.node, done
            return False
        if call.name == "close":  # from here on another thread may be given the number
            self._handles.pop(call.number(0), None)
            return False
        said = len(self._said)
        changes = self._begun[id(call)] = self._changes(call)
        return bool(changes) or len(self._said) > said

    def _end(self, call: Call) -> bool:
        if call.name in {"fsync", "fdatasync"}:
            covered = self._covered.pop(id(call), None)
            if covered is None or call.result != 0:
                return False
            node, changes = covered
            _keep(node, changes)
            return bool(changes)
        for change in self._begun.pop(id(call), []):
            change.done = True
            if isinstance(change, Write) and (handle := self._handles.get(call.number(0))) and handle.syncs:
                _keep(handle.node, [change])
        if call.result is not None and call.result >= 0:
            self._follow(call)
        return False

    def _changes(self, call: Call) -> list[Change]:
        """What a call changes below the root; it is seen from its beginning on."""
        kind, paths, rest = self._named(call)
        match kind:
            case "write":
                return self._write(call.number(0), call.data(1), None)
            case "pwrite64":
                return self._write(call.number(0), call.data(1), call.number(3))
            case "ftruncate":
                return self._truncate(call.number(0), call.number(1))
            case "open" if "O_CREAT" in rest[0]:
                return self._create(paths[0])
            case "mkdir":
                return self._enter(paths[0], Folder())
            case "unlink" | "rmdir":
                return self._remove(paths[0])
            case "rename":
                return self._rename(*paths)
            case "link":
                return self._link(*paths)
        self._refuse(call)
        return []

    def _refuse(self, call: Call) -> None:
        """What this model does not know must not be taken for nothing."""
        position = _UNKNOWN.get(call.name)
        if position is None or call.number(position) not in self._handles:
            return
        if call.name != "mmap" or ("MAP_SHARED" in call.arguments[3] and "PROT_WRITE" in call.arguments[2]):
            raise AssertionError(f"this model knows no {call.name} on a file")

    def _named(self, call: Call) -> tuple[str, list[PurePosixPath], list[str]]:
        """A call that names paths, without the handles of directories before them, and the arguments behind them."""
        kind = call.name.removesuffix("2").removesuffix("at")
        count = _PATHS.get(kind, 0)
        if kind == call.name:
            return kind, [PurePosixPath("/", call.data(each).decode()) for each in range(count)], call.arguments[count:]
        return kind, [self._path(call, 2 * each) for each in range(count)], call.arguments[2 * count :]

    def _follow(self, call: Call) -> None:
        """What a call does to the program's handles."""
        assert call.result is not None
        kind, paths, rest = self._named(call)
        match kind:
            case "open":
                self._open(call.result, paths[0], rest[0])
            case "dup" | "dup3":
                self._same(call.number(0), call.result)
            case "fcntl" if call.arguments[1].startswith("F_DUPFD"):
                self._same(call.number(0), call.result)
            case "lseek" if call.number(0) in self._handles:
                self._handles[call.number(0)].offset = call.result

    def _same(self, old: int, new: int) -> None:
        if old in self._handles:
            self._handles[new] = self._handles[old]
        else:
            self._handles.pop(new, None)

    def _open(self, fd: int, path: PurePosixPath, flags: str) -> None:
        node = self._find(path)
        if node is None:
            self._handles.pop(fd, None)
            return
        if "O_TRUNC" in flags and node.size:
            raise AssertionError(f"{path}: opened with O_TRUNC, which nothing on this disk may do")
        self._handles[fd] = _Handle(node, "O_APPEND" in flags, "O_SYNC" in flags or "O_DSYNC" in flags)

    def _write(self, fd: int, data: bytes, offset: int | None) -> list[Change]:
        handle = self._handles.get(fd)
        if handle is None:
            if fd == 1 and data.startswith(self._root.name.encode() + b" "):
                self._said.append(data.decode().split()[1:])
            return []
        if offset is None:
            offset = handle.node.size if handle.appends else handle.offset
            handle.offset = offset + len(data)
        handle.node.size = max(handle.node.size, offset + len(data))
        return _add(handle.node, Write(offset=offset, data=data))

    def _truncate(self, fd: int, size: int) -> list[Change]:
        handle = self._handles.get(fd)
        if handle is None or handle.node.size == size:
            return []
        handle.node.size = size
        return _add(handle.node, Truncate(size=size))

    def _create(self, path: PurePosixPath) -> list[Change]:
        return [] if self._find(path) is not None else self._enter(path, Node())

    def _enter(self, path: PurePosixPath, node: Node) -> list[Change]:
        if not self._is_ours(path):
            return []
        folder, name = self._place(path)
        folder.now[name] = node
        return _add(folder, Entry(node=node, new=name))

    def _link(self, old: PurePosixPath, new: PurePosixPath) -> list[Change]:
        node = self._find(old)
        return [] if node is None else self._enter(new, node)

    def _remove(self, path: PurePosixPath) -> list[Change]:
        if self._find(path) is None:
            return []
        folder, name = self._place(path)
        return _add(folder, Entry(node=folder.now.pop(name), old=name))

    def _rename(self, old: PurePosixPath, new: PurePosixPath) -> list[Change]:
        if self._find(old) is None:
            return []
        (folder, old_name), (target, new_name) = self._place(old), self._place(new)
        assert folder is target, f"{old} is moved to another directory, which this model does not know"
        node = folder.now[new_name] = folder.now.pop(old_name)
        return _add(folder, Entry(node=node, old=old_name, new=new_name))

    # Paths -----------------------------------------------------------------------------------------------------

    def _path(self, call: Call, position: int) -> PurePosixPath:
        """A path of a call with a directory before it."""
        fd, name = call.number(position), call.data(position + 1).decode()
        if fd == _CURRENT or name.startswith("/"):
            return PurePosixPath("/", name)
        handle = self._handles.get(fd)
        return PurePosixPath("/elsewhere") if handle is None else self._path_of(handle.node) / name

    def _path_of(self, node: Node) -> PurePosixPath:
        for path, each in _walk(self._top, lambda folder: folder.now):
            if each is node:
                return self._root / path
        return self._root if node is self._top else PurePosixPath("/elsewhere")

    def _is_ours(self, path: PurePosixPath) -> bool:
        return path.is_relative_to(self._root)

    def _place(self, path: PurePosixPath) -> tuple[Folder, str]:
        folder = self._find(path.parent)
        assert isinstance(folder, Folder), f"{path} has no directory"
        return folder, path.name

    def _find(self, path: PurePosixPath) -> Node | None:
        if not self._is_ours(path):
            return None
        node: Node | None = self._top
        for part in path.relative_to(self._root).parts:
            if not isinstance(node, Folder):
                return None
            node = node.now.get(part)
        return node

    # What a crash leaves ---------------------------------------------------------------------------------------

    def _at(self, moment: int, after: str, chance: random.Random) -> Iterator[State]:
        reachable = [self._top, *_reachable(self._top)]
        folders = [each for each in reachable if isinstance(each, Folder) and each.pending]
        files = [each for each in reachable if not isinstance(each, Folder) and each.pending]
        said = tuple(self._said)
        for how, entries, contents in _choices(folders, files, chance):
            tree = dict(_walk(self._top, lambda folder, chosen=entries: _entries(folder, chosen)))  # type: ignore[misc]
            found = {path: None if isinstance(node, Folder) else contents(node) for path, node in tree.items()}
            sure = {path: len(node.kept) for path, node in tree.items()}
            yield State(moment, after, how, found, sure, said)


Content = Callable[[Node], bytes]


def _choices(
    folders: list[Folder], files: list[Node], chance: random.Random
) -> Iterator[tuple[str, set[Change], Content]]:
    """Which of the pending changes are on disk, and how much of each file's."""
    entries: list[Change] = [change for folder in folders for change in folder.pending]
    one_missing = [(f"all entries but {_named(each)}", {*entries} - {each}) for each in entries[-3:]]
    one_there = [(f"no entry but {_named(each)}", {each}) for each in entries[-3:]]
    some = [("some entries", {each for each in entries if chance.random() < 0.5}) for _ in range(2) if len(entries) > 2]
    which = [("all entries", {*entries}), ("no entries", set[Change]()), *one_missing, *one_there, *some]
    for text, chosen in which if entries else which[:1]:
        yield f"{text}, no bytes", chosen, lambda node: node.kept
        if files:
            yield f"{text}, all bytes", chosen, _whole
    if not files:
        return
    everything = {*entries}
    for sector in SECTORS:
        yield f"cut off at {sector}", everything, _frozen(files, lambda node, size=sector: _cut(node, size, chance))  # type: ignore[misc]
        yield f"holes of {sector}", everything, _frozen(files, lambda node, size=sector: _holes(node, size, chance))  # type: ignore[misc]
    yield "the last bytes alone", everything, _frozen(files, _last_alone)
    yield "the length alone", everything, _frozen(files, lambda node: _build(node, lambda _: 0))
    for _ in range(RANDOM_STATES):
        sector = chance.choice(SECTORS)
        chosen = {each for each in entries if chance.random() < 0.7}
        yield f"by chance, {sector}", chosen, _frozen(files, lambda node, size=sector: _any(node, size, chance))  # type: ignore[misc]


def _frozen(files: list[Node], content: Content) -> Content:
    """Decided once for each file, so that one with two names is the same under both."""
    made = {id(node): content(node) for node in files}
    return lambda node: made.get(id(node), node.kept)


def _named(change: Change) -> str:
    assert isinstance(change, Entry)
    return " -> ".join(name for name in (change.old, change.new) if name) + ("" if change.new else " removed")


def _build(node: Node, pick: Callable[[Write], int | set[int]], sector: int = 512, *, upto: int = 0) -> bytes:
    """The bytes with the pending writes, of each as many as `pick` says, or the sectors that it names."""
    data = bytearray(node.kept)
    for change in node.pending[: upto or None]:
        if isinstance(change, Truncate):
            data = data[: change.size].ljust(change.size, b"\0")
        elif isinstance(change, Write):
            picked = pick(change)
            if isinstance(picked, int) and picked < 0:
                continue
            end = change.offset + len(change.data)
            data = data.ljust(end, b"\0")
            if isinstance(picked, int):
                data[change.offset : change.offset + picked] = change.data[:picked]
                continue
            for number in picked:
                start, stop = max(change.offset, number * sector), min(end, (number + 1) * sector)
                data[start:stop] = change.data[start - change.offset : stop - change.offset]
    return bytes(data)


def _whole(node: Node) -> bytes:
    return _build(node, lambda write: len(write.data))


def _cut(node: Node, sector: int, chance: random.Random) -> bytes:
    """Everything up to some sector of what is pending."""
    data = _whole(node)
    first = len(node.kept) // sector + 1
    last = len(data) // sector
    return data[: chance.randint(first, last) * sector] if first <= last else node.kept


def _sectors(write: Write, sector: int) -> range:
    return range(write.offset // sector, (write.offset + len(write.data) - 1) // sector + 1)


def _holes(node: Node, sector: int, chance: random.Random) -> bytes:
    return _build(node, lambda write: {each for each in _sectors(write, sector) if chance.random() < 0.5}, sector)


def _last_alone(node: Node) -> bytes:
    writes = [change for change in node.pending if isinstance(change, Write)]
    return _build(node, lambda write: len(write.data) if write is writes[-1] else 0)


def _any(node: Node, sector: int, chance: random.Random) -> bytes:
    def pick(write: Write) -> int | set[int]:
        kind = chance.randrange(3)
        return (-1, len(write.data), {each for each in _sectors(write, sector) if chance.random() < 0.6})[kind]

    return _build(node, pick, sector, upto=chance.randint(0, len(node.pending)))


def _keep(node: Node, changes: list[Change]) -> None:
    """A sync has covered these."""
    if isinstance(node, Folder):
        node.sure = _entries(node, {*changes})
    else:
        rest, node.pending = node.pending, changes
        node.kept = _whole(node)
        node.pending = rest
    node.pending = [change for change in node.pending if change not in changes]


def _entries(folder: Folder, chosen: set[Change]) -> dict[str, Node]:
    entries = dict(folder.sure)
    for change in folder.pending:
        if change in chosen:
            assert isinstance(change, Entry)
            assert change.node is not None
            if change.old is not None and entries.get(change.old) is change.node:
                del entries[change.old]
            if change.new is not None:
                entries[change.new] = change.node
    return entries


def _add(node: Node, change: Change) -> list[Change]:
    node.pending.append(change)
    return [change]


def _walk(folder: Folder, entries: Callable[[Folder], dict[str, Node]], path: str = "") -> Iterator[tuple[str, Node]]:
    for name, node in entries(folder).items():
        yield path + name, node
        if isinstance(node, Folder):
            yield from _walk(node, entries, f"{path}{name}/")


def _reachable(folder: Folder) -> Iterator[Node]:
    """Every file and directory that some state may still have, each once."""
    seen: set[int] = set()
    todo: list[Folder] = [folder]
    while todo:
        each = todo.pop()
        pending = [change.node for change in each.pending if isinstance(change, Entry)]
        for node in [*each.sure.values(), *each.now.values(), *pending]:
            if node is not None and id(node) not in seen:
                seen.add(id(node))
                yield node
                if isinstance(node, Folder):
                    todo.append(node)


def fingerprint(state: State) -> bytes:
    """The same for two states that hold the same."""
    digest = hashlib.blake2b(digest_size=16)
    for path, data in sorted(state.files.items()):
        digest.update(f"{path}\0{-1 if data is None else len(data)}\0".encode())
        digest.update(data or b"")
    return digest.digest()
