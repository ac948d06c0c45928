"""Outputs that appear whole under their name, or not at all.

Everything is written in a hidden folder beside the target (so on the same file system), and
renamed when it is complete. Journals, indexes and sidecars that a driver puts beside its file
land in that folder too, and go with it when something fails. Only a killed process (SIGKILL)
leaves anything: the hidden folder, never a file under the final name.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geoseg.errors import OutputError


@contextmanager
def replacing(path: Path, *, overwrite: bool, stale: tuple[str, ...] = ()) -> Iterator[Path]:
    """A path to write to; on leaving without an exception it appears as `path`.

    Files that lie beside it then (not folders) are its sidecars and appear with it.
    `stale` name files, by {name} or {stem}, that belong to an older file at `path` and would be
    taken for the new one's (journals, statistics, indexes); they are removed on success.
    """
    check_target(path, overwrite=overwrite)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as e:
        raise OutputError(f"{path.parent}: cannot write here ({e.strerror})") from e
    try:
        yield folder / path.name
        if not overwrite and path.exists():  # another run was faster
            raise OutputError(_exists(path))
        _rename(folder, path, stale)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that could not be written at the end, before anything is computed."""
    folder = path.parent
    if not folder.exists():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputError(_exists(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} is not writable")


def write_failure(path: Path, cause: BaseException, *, temp: Path) -> OutputError:
    """The one sentence for an output that could not be written by way of `temp`."""
    reason = (isinstance(cause, OSError) and cause.strerror) or str(cause)
    reason = reason.replace(f"{temp.parent}{os.sep}", "") or type(cause).__name__
    errno_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    signs = ("no space left", "disk is full", "quota exceeded")
    free = free_bytes(path.parent)
    if errno_full or free < 64 * 1024 or any(sign in reason.lower() for sign in signs):
        reason = "the disk is full"
    elif free < 100_000_000:  # drivers fail in many words where the reason is this
        reason = f"{reason}; only {free / 1e6:.1f} MB are free on its disk"
    return OutputError(f"{path}: could not be written ({reason}); nothing was left behind")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _exists(path: Path) -> str:
    return f"{path} already exists: pass --overwrite, or name another file"


def _rename(folder: Path, path: Path, stale: tuple[str, ...]) -> None:
    # The named file comes last: once it is there, all that belongs to it is there.
    files = [file for file in folder.iterdir() if file.is_file()]
    files.sort(key=lambda file: file.name == path.name)
    try:
        for file in files:
            _sync(file)
        for pattern in stale:
            name = pattern.format(name=path.name, stem=path.stem)
            path.with_name(name).unlink(missing_ok=True)
        for file in files:
            file.replace(path.with_name(file.name))
    except OSError as e:
        raise write_failure(path, e, temp=folder / path.name) from e


def _sync(file: Path) -> None:
    """On network and quota file systems a full disk is often reported here for the first time."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
