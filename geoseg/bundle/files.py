"""Files of a bundle, in a folder or a zip: read in place, written whole or not at all."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from geoseg.errors import ModelError, OutputError

ITEM = "model.json"
MAX_BYTES = 8 << 30  # of an unpacked bundle
MAX_RATIO = 200  # unpacked over packed; weights reach 1.1, text 10

Read = Callable[[str], bytes]

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, ValueError),
    *(KeyError, OSError, EOFError, NotImplementedError),
)
_LITTER = "__MACOSX"  # the folder in which macOS keeps its own notes beside the files of a zip


def folder_files(path: Path) -> tuple[set[str], Read]:
    if not path.is_dir():
        raise ModelError(f"{path}: no such model folder or zip")

    def read(name: str) -> bytes:
        try:
            return (path / name).read_bytes()
        except (OSError, ValueError) as e:
            raise ModelError(f"{path}: {name} cannot be read: {_why(e)}") from e

    try:
        return {p.name for p in path.iterdir() if p.is_file()}, read
    except OSError as e:
        raise ModelError(f"{path}: the folder cannot be read: {_why(e)}") from e


def zip_files(path: Path) -> tuple[set[str], Read]:
    """Names inside a zip, beside its model.json wherever that lies, and a reader of them."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _BROKEN as e:
        raise ModelError(f"{path}: neither a model folder nor an intact zip ({e})") from e
    refuse_traps(path, members)
    by_name = {PurePosixPath(m.filename): m for m in members if not m.is_dir()}
    folders = {p.parent for p in by_name if p.name == ITEM and p.parts[0] != _LITTER}
    top = PurePosixPath()
    if len(folders) > 1 and top not in folders:
        raise ModelError(
            f"{path}: several models lie in it: {', '.join(sorted(map(str, folders)))}"
        )
    inside = top if top in folders else next(iter(folders), top)
    files = {p.name: m for p, m in by_name.items() if p.parent == inside}

    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(files[name])
        except _BROKEN as e:
            raise ModelError(f"{path}: {name} cannot be read from the zip ({e})") from e

    return set(files), read


def refuse_traps(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """A zip whose members leave its folder, are links or encrypted, or unpack to a flood."""
    for m in members:
        if not _is_inside(m.filename):
            raise ModelError(f"{path}: refused, the member {m.filename!r} points out of the zip")
        if stat.S_ISLNK(m.external_attr >> 16):
            raise ModelError(f"{path}: refused, the member {m.filename!r} is a link")
        if m.flag_bits & 1:
            raise ModelError(f"{path}: refused, the member {m.filename!r} is encrypted")
    if len({PurePosixPath(m.filename) for m in members}) < len(members):
        raise ModelError(f"{path}: refused, two members have the same name")
    total = sum(m.file_size for m in members)
    packed = sum(m.compress_size for m in members)
    if total > MAX_BYTES or (total > 1 << 20 and total > MAX_RATIO * packed):
        raise ModelError(f"{path}: refused, it would unpack to {total / 1e6:.0f} MB")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    drive = str(path)[1:2] == ":"
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or drive or not name)


def is_plain(name: str) -> bool:
    """A file right in the bundle: no folder, no URL."""
    return _is_inside(name) and "/" not in name and ":" not in name


@contextmanager
def installing(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path beside `target` to write a file or folder at; renamed to `target` at the end.

    When anything fails, nothing is left behind, and what was at `target` is untouched; so is what
    another run has put there meanwhile. An empty folder is as good as none.
    """
    from geoseg.sinks.atomic import HiddenFolder  # opening a bundle needs no drivers

    try:
        if _taken(target) and not overwrite:
            raise OutputError(f"{target} exists already")
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = HiddenFolder(target.parent)
    except (OSError, ValueError) as e:
        raise OutputError(f"{target} cannot be written: {_why(e)}") from e
    try:
        with hidden as work:
            partial = work / target.name
            yield partial
            if _taken(target) and not overwrite:
                raise OutputError(
                    f"{target} was written by another run meanwhile; it was left alone"
                )
            _swap(partial, target, work / "replaced")
    except OSError as e:
        raise OutputError(f"{target} cannot be written: {_why(e)}") from e


def _taken(target: Path) -> bool:
    return target.exists() and not (target.is_dir() and not any(target.iterdir()))


def _swap(partial: Path, target: Path, replaced: Path) -> None:
    """Rename over `target`; a folder, which rename does not replace, steps aside first."""
    if target.is_dir():
        target.rename(replaced)
    try:
        partial.replace(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in contents.items():
            # a ZipInfo of its own carries no time of writing: same model, same bytes
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, raw)
