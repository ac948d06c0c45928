"""Several files appear together, or none does; of two runs into one new file one fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from geoseg.errors import OutputError
from geoseg.sinks.atomic import PREFIX, replacing, together

NAMES = ("a.gpkg", "b.tif", "c.tif")


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


def write_all(folder: Path, *, overwrite: bool = False, text: str = "new") -> None:
    """Three outputs of one run; the first has a sidecar, and takes an old journal away."""
    with together() as commit:
        for name in NAMES:
            stale = ("{name}-wal",) if name == "a.gpkg" else ()
            target = folder / name
            with replacing(target, overwrite=overwrite, stale=stale, commit=commit) as temp:
                temp.write_text(text)
                if name == "a.gpkg":
                    temp.with_name("a.aux").write_text(text)


NEW = dict.fromkeys((*NAMES, "a.aux"), "new")
OLD = dict.fromkeys((*NAMES, "a.aux", "a.gpkg-wal", "other"), "old")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    for name in OLD:
        (tmp_path / name).write_text("old")
    return tmp_path


def test_all_appear(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert texts(tmp_path) == NEW


def test_all_are_replaced(old: Path) -> None:
    write_all(old, overwrite=True)
    assert texts(old) == {**NEW, "other": "old"}


def test_nothing_appears_before_all_are_ready(old: Path) -> None:
    with together() as commit:
        with replacing(old / "a.gpkg", overwrite=True, commit=commit) as temp:
            temp.write_text("new")
        with replacing(old / "b.tif", overwrite=True, commit=commit) as temp:
            temp.write_text("new")
        assert {k: v for k, v in texts_of_files(old).items() if k in OLD} == OLD
    assert texts(old) == {**OLD, "a.gpkg": "new", "b.tif": "new"}


def texts_of_files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_between_two_outputs_leaves_nothing(
    old: Path, error: type[BaseException]
) -> None:
    def run() -> None:
        with together() as commit:
            with replacing(old / "a.gpkg", overwrite=True, commit=commit) as temp:
                temp.write_text("new")
            with replacing(old / "b.tif", overwrite=True, commit=commit):
                raise error

    with pytest.raises(error):
        run()
    assert texts(old) == OLD


class Failing:
    """Stands in for a system call; fails when it makes `name`, before or after doing so."""

    def __init__(self, real: object, name: str, error: BaseException, *, after: bool) -> None:
        self.real, self.name, self.error, self.after = real, name, error, after

    def __call__(self, source: Path | str, target: Path | str, **options: object) -> object:
        fails = Path(target).name == self.name and Path(source).parent.name.startswith(PREFIX)
        if fails and not self.after:
            raise self.error
        result = self.real(source, target, **options)  # type: ignore[operator]
        if fails:
            raise self.error
        return result


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", [*NAMES, "a.aux"])
def test_a_renaming_that_fails_is_undone(
    old: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException, after: bool
) -> None:
    replace = Path.replace
    failing = Failing(replace, name, error, after=after)
    monkeypatch.setattr(Path, "replace", lambda self, target: failing(self, target))
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        write_all(old, overwrite=True)
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{old / name.replace('aux', 'gpkg')}: could not be")
        assert "I/O error" in str(caught.value)
        assert str(caught.value).endswith("; nothing was left behind")
    assert texts(old) == OLD


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "a.aux"])
def test_an_appearance_that_is_interrupted_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    failing = Failing(os.link, name, KeyboardInterrupt(), after=after)
    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "no links here")


def test_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT, and on some network drives."""
    monkeypatch.setattr(os, "link", no_links)
    write_all(tmp_path)
    assert texts(tmp_path) == NEW
    write_all(tmp_path, overwrite=True, text="newer")
    assert texts(tmp_path) == dict.fromkeys(NEW, "newer")


def test_what_cannot_be_undone_is_told(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    failing = Failing(Path.replace, "b.tif", OSError(errno.EIO, "I/O error"), after=False)
    monkeypatch.setattr(Path, "replace", lambda self, target: failing(self, target))
    with pytest.raises(OutputError, match=r"a\.gpkg and .*a\.aux could not be taken back"):
        write_all(old, overwrite=True)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name", [*NAMES, "a.aux"])
def test_a_file_that_comes_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, links: bool
) -> None:
    real = os.link

    def late(source: Path, target: Path) -> None:
        if target.name == name:
            target.write_text("of another run")
        real(source, target) if links else no_links()

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputError, match=f"{name} already exists"):
        write_all(tmp_path)
    assert texts(tmp_path) == {name: "of another run"}


@pytest.mark.parametrize("links", [True, False])
def test_of_runs_into_one_new_file_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    runs = 6
    for _ in range(20):
        barrier = threading.Barrier(runs)

        def run(number: int, barrier: threading.Barrier = barrier) -> str:
            with together() as commit:
                for name in NAMES:
                    with replacing(tmp_path / name, overwrite=False, commit=commit) as temp:
                        temp.write_text(str(number))
                barrier.wait()
            return str(number)

        with ThreadPoolExecutor(runs) as pool:
            jobs = [pool.submit(run, number) for number in range(runs)]
        errors = [job.exception() for job in jobs]
        won = [job.result() for job, error in zip(jobs, errors, strict=True) if error is None]
        assert len(won) == 1
        assert texts(tmp_path) == dict.fromkeys(NAMES, won[0])
        for error in errors:
            assert error is None or "already exists" in str(error)
        for file in tmp_path.iterdir():
            file.unlink()


def test_missing_folders_are_made_and_taken_away_if_it_fails(tmp_path: Path) -> None:
    write_all(tmp_path / "some" / "where")
    assert texts(tmp_path / "some" / "where") == NEW
    deep = tmp_path / "deep"

    def fail() -> None:
        with replacing(deep / "er" / "a.txt", overwrite=False) as temp:
            temp.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not deep.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is not a folder"):
        write_all(tmp_path / "file" / "below")


KILLED = """
import os, signal, sys
from pathlib import Path
from geoseg.sinks.atomic import replacing
with replacing(Path(sys.argv[1]), overwrite=False) as temp:
    temp.write_text("half")
    print("ready", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks of folders")
def test_what_a_killed_run_left_goes_with_the_next_and_not_before(tmp_path: Path) -> None:
    def write(name: str) -> list[str]:
        """A run of its own; the names that are there then."""
        code = "import sys; from pathlib import Path; from geoseg.sinks.atomic import replacing\n"
        code += "with replacing(Path(sys.argv[1]), overwrite=False) as temp: temp.touch()"
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True)
        return sorted(p.name for p in tmp_path.iterdir())

    victim = [sys.executable, "-c", KILLED, tmp_path / "killed.gpkg"]
    with subprocess.Popen(victim, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        hidden, *others = write("one.gpkg")
        assert hidden.startswith(PREFIX)
        assert others == ["one.gpkg"]
        process.stdin.write(b"\n")
    assert process.returncode == -9
    assert write("two.gpkg") == ["one.gpkg", "two.gpkg"]
