"""Outputs that appear whole under their name, or not at all; several of a run all together.

Everything is written in a hidden folder beside the target (so on the same file system), and
renamed when it is complete. Journals, indexes and sidecars that a driver puts beside its file
land in that folder too, and go with it when something fails. Only a killed process (SIGKILL)
leaves anything: the hidden folder, never an unfinished file under the final name. The next run that
writes there takes it away (not on Windows, which has no such locks).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from geoseg.errors import OutputError

PREFIX, SUFFIX = ".geoseg-", ".tmp"  # of the hidden folders


class HiddenFolder:
    """An empty folder for what is not finished; locked, so that others know whether it is in use.

    An OSError where it cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        _sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=".new", dir=parent))
        self._lock = _lock(made)
        self.path = made.rename(made.with_suffix(SUFFIX))

    def remove(self) -> None:
        """Take it away, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


@cache  # once is enough for a process, and a folder may hold very many files
def _sweep(parent: Path) -> None:
    """Take away what killed runs have left."""
    for old in parent.glob(f"{PREFIX}*{SUFFIX}"):
        if (free := _lock(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(free)


def _lock(folder: Path) -> int | None:
    """Hold a folder for as long as this process lives, or until the descriptor is closed.

    None where it is another's, or where there are no such locks.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class Commit:
    """Finished outputs that wait for each other; see `together`."""

    def __init__(self) -> None:
        self._folders: list[HiddenFolder] = []
        self._parents: list[Path] = []  # that were made, the deepest of each first
        self._moves: list[_Move] = []

    def folder(self, path: Path) -> Path:
        """A hidden folder beside `path`, for what will become it; its parents are made, too."""
        missing = [parent for parent in path.parents if not parent.exists()]
        self._parents = missing + self._parents
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = HiddenFolder(path.parent)
        except OSError as e:
            raise OutputError(f"{path.parent}: cannot write here ({e.strerror})") from e
        self._folders.append(folder)
        return folder.path

    def add(
        self,
        folder: Path,
        path: Path,
        *,
        overwrite: bool,
        stale: tuple[str, ...],
        sync: bool = True,
    ) -> None:
        """Take the finished files in `folder`, to appear as `path` and its sidecars.

        sync: False for many small files that are easily made anew, if a power cut takes them.
        """
        # The named file comes last: once it is there, all that belongs to it is there.
        files = sorted(
            (file for file in folder.iterdir() if file.is_file()),
            key=lambda file: (file.name == path.name, file.name),
        )
        old = folder / "old"
        try:
            for file in files if sync else ():
                _sync(file)
            old.mkdir()
        except OSError as e:
            raise write_failure(path, e, temp=folder / path.name) from e
        names = {file.name for file in files}
        gone = [name for name in _names(path, stale) if name not in names]
        self._moves += [
            *(_Move(path, None, path.with_name(name), old / name, overwrite) for name in gone),
            *(_Move(path, f, path.with_name(f.name), old / f.name, overwrite) for f in files),
        ]

    def run(self) -> None:
        """Let all appear, in one go; what can be undone is undone when something fails."""
        begun: list[_Move] = []
        try:
            for move in self._moves:
                move.prepare()
            for move in self._moves:
                begun.append(move)
                move.run()
        except BaseException as e:
            replaced = [move.target for move in reversed(begun) if not move.undo()]
            if isinstance(e, OSError):
                raise write_failure(move.path, e, replaced=replaced) from e
            raise

    def remove(self) -> None:
        """Take the hidden folders away, with what is left in them; and parents, if nothing is."""
        for folder in self._folders:
            folder.remove()
        for parent in self._parents:
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextmanager
def together() -> Iterator[Commit]:
    """What is opened with this commit appears when the block is left, all of it or nothing."""
    commit = Commit()
    try:
        yield commit
        commit.run()
    finally:
        commit.remove()


@contextmanager
def replacing(
    path: Path, *, overwrite: bool, stale: tuple[str, ...] = (), commit: Commit | None = None
) -> Iterator[Path]:
    """A path to write to; on leaving without an exception it appears as `path`.

    With a `commit` (see `together`) it only becomes ready to appear with the others of it.
    Files that lie beside it then (not folders) are its sidecars and appear with it.
    `stale` name files, by {name} or {stem}, that belong to an older file at `path` and would be
    taken for the new one's (journals, statistics, indexes): with `overwrite` they are removed,
    without they are a reason to refuse, as `path` itself.
    """
    check_target(path, overwrite=overwrite, stale=stale)
    with ExitStack() as stack:
        if commit is None:
            commit = stack.enter_context(together())
        folder = commit.folder(path)
        yield folder / path.name
        commit.add(folder, path, overwrite=overwrite, stale=stale)


def check_target(path: Path, *, overwrite: bool, stale: tuple[str, ...] = ()) -> None:
    """Refuse a target that could not be written at the end, before anything is computed.

    Folders that are missing will be made.
    """
    try:
        folder = next(parent for parent in path.parents if parent.exists())
        if not folder.is_dir():
            raise OutputError(f"{path}: {folder} is not a folder")
        for name in (path.name, *_names(path, stale)):
            found = path.with_name(name)
            if found.is_dir():
                raise OutputError(f"{found} is a folder; name a file")
            if _is_there(found) and not overwrite:
                raise OutputError(_exists(path, found))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: the folder {folder} is not writable")
    except OSError as e:  # a name that is too long, a folder that may not be read
        raise OutputError(f"{path}: cannot be written ({e.strerror})") from e


def same_file(one: Path, other: Path) -> bool:
    """Whether both exist and are one."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def write_failure(
    path: Path, cause: BaseException, *, temp: Path | None = None, replaced: Sequence[Path] = ()
) -> OutputError:
    """The one sentence for an output that could not be written by way of `temp`.

    replaced: outputs that had appeared already, and could not be taken back.
    """
    reason = (isinstance(cause, OSError) and cause.strerror) or str(cause)
    if temp is not None:
        reason = reason.replace(f"{temp.parent}{os.sep}", "")
    reason = reason or type(cause).__name__
    errno_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    signs = ("no space left", "disk is full", "quota exceeded")
    free = free_bytes(path.parent)
    if errno_full or free < 64 * 1024 or any(sign in reason.lower() for sign in signs):
        reason = "the disk is full"
    elif free < 100_000_000:  # drivers fail in many words where the reason is this
        reason = f"{reason}; only {free / 1e6:.1f} MB are free on its disk"
    there = " and ".join(map(str, replaced))
    left = f"{there} could not be taken back" if there else "nothing was left behind"
    return OutputError(f"{path}: could not be written ({reason}); {left}")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _exists(path: Path, found: Path) -> str:
    of = "" if found == path else f" and would be taken for a part of {path.name}"
    return f"{found} already exists{of}: pass --overwrite, or name another file"


def _names(path: Path, stale: tuple[str, ...]) -> list[str]:
    return [pattern.format(name=path.name, stem=path.stem) for pattern in stale]


def _is_there(path: Path) -> bool:
    """Whether the name is taken, if only by a link that leads nowhere."""
    return _identity(path) is not None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@dataclass(slots=True)
class _Move:
    """One name that a finished file of the output `path` gets, or (`source` None) that is freed."""

    path: Path
    source: Path | None
    target: Path
    backup: Path  # what was there before, as a second name of it
    overwrite: bool
    identity: tuple[int, int] | None = None  # of the source
    replaces: bool = False

    def prepare(self) -> None:
        """All that can be done before the first name changes."""
        if self.source is not None:
            self.identity = _identity(self.source)
        if not _is_there(self.target):
            return
        if not self.overwrite:  # another run was faster
            raise OutputError(_exists(self.path, self.target))
        if self.source is not None:
            self.replaces = True
            with contextlib.suppress(OSError, NotImplementedError):  # without links no undoing
                os.link(self.target, self.backup, follow_symlinks=False)

    def run(self) -> None:
        if self.source is None:
            if self.overwrite:
                with contextlib.suppress(FileNotFoundError):
                    self.target.replace(self.backup)
        elif self.overwrite:
            self.source.replace(self.target)
        else:
            self._claim(self.source)

    def _claim(self, source: Path) -> None:
        """Let the file appear unless the name is taken: of two runs the later one fails."""
        try:
            try:
                os.link(source, self.target)
            except FileExistsError:
                raise
            except OSError:  # no links here: hold the name with an empty file
                self.target.touch(exist_ok=False)
                try:
                    source.replace(self.target)
                except BaseException:
                    self.target.unlink()
                    raise
        except FileExistsError as e:
            raise OutputError(_exists(self.path, self.target)) from e

    def undo(self) -> bool:
        """Put back what was there before; False where it cannot be."""
        try:
            if _is_there(self.backup):
                self.backup.replace(self.target)
            elif self.identity is not None and _identity(self.target) == self.identity:
                if self.replaces:
                    return False
                self.target.unlink()
        except OSError:
            return False
        return True


def _sync(file: Path) -> None:
    """On network and quota file systems a full disk is often reported here for the first time."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
