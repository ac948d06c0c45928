"""Runs the engine, `geoseg … --json`, as a child process: standard library only, no Qt.

The events that come are described in docs/events.md.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess  # nosec B404 - to run the engine is this module's job
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

# What QGIS sets for its own Python, GDAL, PROJ and Qt breaks those of another environment.
DROPPED = (
    *("PYTHON", "PIP_", "QGIS_", "PROJ_", "GDAL_DATA", "GDAL_DRIVER_PATH", "GDAL_PAM_PROXY_DIR"),
    *("QT_PLUGIN_PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_"),
)
SET = {
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    "GEOSEG_WATCH_STDIN": "1",  # the engine ends itself when this program is gone
}
POLL = 0.05  # seconds between two looks at the user's wish to cancel
POLITE = 0.6  # seconds to clean up after SIGTERM; with the rest, cancel stays within one
TOO_LIGHT = ("NeedsTorchError", "MissingDependencyError")  # what a full engine helps with
LONGEST = 1 << 22  # bytes of a line: a child that never ends one must not fill the memory

Event = dict[str, Any]

translate: Callable[[str], str] = str  # the plugin puts its own in this place


def tr(text: str) -> str:
    """Return `text` in the user's language; it must be a literal, for the extraction."""
    return translate(text)


def repair() -> str:
    """What to do with an engine that is broken."""
    return tr(
        "Repair the engine: Raster ▸ geoseg ▸ Engine and models. If that does not help, copy the "
        "diagnostics there."
    )


def make_full() -> str:
    """What to do with a light engine that something larger is asked of."""
    return tr("In QGIS: repair the engine as full, under Raster ▸ geoseg ▸ Engine and models.")


def update() -> str:
    """What to do with an engine that does not know an option."""
    return tr(
        "The engine and the plugin may be of different versions: update the engine (Raster ▸ "
        "geoseg ▸ Engine and models), or the plugin."
    )


class EngineError(Exception):
    """One message for users, which ends with what to do."""


class EngineMissing(EngineError):
    """No engine was found."""


class EngineBroken(EngineError):
    """What was started is no geoseg, or none that works."""


class EngineCanceled(Exception):
    """The user canceled."""


def clean_environment() -> dict[str, str]:
    """This process's environment without what QGIS put there for itself."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(DROPPED)}
    return {**kept, **SET}


@dataclass(frozen=True)
class Engine:
    """A geoseg in an environment of its own."""

    command: tuple[str, ...]
    # Further variables of its environment; a proxy among them may have a password.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def run(
        self,
        arguments: Sequence[str],
        *,
        on_event: Callable[[Event], None] = lambda event: None,
        is_canceled: Callable[[], bool] = lambda: False,
    ) -> Event:
        """Run a verb; the "result" event, or else the last record without "event" (doctor's).

        A result may tell of parts that failed ("failed", of a batch): that is for the caller.
        """
        command = [*self.command, *map(str, arguments), "--json"]
        env = {**clean_environment(), **self.variables}
        with tempfile.TemporaryFile() as errors:  # a pipe that nobody reads would fill
            with Child(command, env, stderr=errors) as child:
                outcome = _follow(child, on_event, is_canceled)
                code = child.returncode
            # A run of which parts failed ends with 3, a report of troubles with 1.
            if outcome is not None and code in ((0, 3) if "event" in outcome else (0, 1)):
                return outcome
            raise _failure(code, _tail(errors))


def _follow(
    child: Child, on_event: Callable[[Event], None], is_canceled: Callable[[], bool]
) -> Event | None:
    result = record = None
    for line in child.lines(is_canceled):
        if not line.strip():
            continue
        event = _parsed(line)
        on_event(event)
        kind = event.get("event")
        if kind == "error":
            child.wait(2, is_canceled)  # it is about to end by itself, after its clean-up
            message = str(event.get("message") or tr("geoseg failed.") + " " + repair())
            if event.get("kind") in TOO_LIGHT:
                message += "\n" + make_full()
            raise EngineError(message)
        if kind == "result":
            result = event
        elif "event" not in event:
            record = event
    return result or record


def _parsed(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # "[[[[…" is what exhausts the stack
        event = None
    if isinstance(event, dict):
        return event
    start = line[:80].decode("utf-8", "replace").strip()
    text = tr("geoseg wrote what is no event: {start}.").format(start=repr(start))
    raise EngineBroken(f"{text} {repair()}")


def _failure(code: int | None, said: str) -> EngineError:
    """Why there is no result, and what to do; `said` on stderr."""
    if code == 2:
        # How click tells a wrong option, after lines on the usage.
        wrong = [x[len("Error: ") :] for x in said.splitlines() if x.startswith("Error: ")]
        if wrong:
            text = tr("geoseg does not take what it was called with: {option}")
            return EngineBroken(f"{text.format(option=wrong[-1])}\n{update()}")
    ending = tr("geoseg ended with code {code} and no result.").format(code=code)
    kind: type[EngineError] = EngineBroken
    if code == -9:
        kind = EngineError
        ending = tr(
            "geoseg was killed; the computer may have run out of memory: try smaller tiles."
        )
    return kind("\n".join(filter(None, [ending, said, repair()])))


def _tail(errors: IO[bytes]) -> str:
    """The end of what was said on stderr."""
    errors.seek(max(errors.seek(0, os.SEEK_END) - 2000, 0))
    return errors.read().decode("utf-8", "replace").strip()


class Child:
    """A process in a group of its own, read line by line; none of the group outlives `with`."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], *, stderr: IO[bytes] | int
    ) -> None:
        # On Windows: a new process group, and no console window that flashes up.
        group: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            group = {"creationflags": 0x200 | 0x08000000}
        try:
            self._process = subprocess.Popen(  # nosec B603 - a list, no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(env),
                **group,
            )
        except (OSError, ValueError) as e:
            text = tr(
                "{command} does not start ({error}). Set up the engine: Raster ▸ geoseg ▸ Engine "
                "and models."
            )
            raise EngineMissing(text.format(command=command[0], error=e)) from e
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def lines(self, is_canceled: Callable[[], bool]) -> Iterator[bytes]:
        """What it writes, until it has ended; EngineCanceled when that is wished."""
        yield from iter(lambda: self._next(is_canceled), None)
        # It may have closed its stdout without ending.
        self.wait(float("inf"), is_canceled)

    def wait(self, seconds: float, is_canceled: Callable[[], bool]) -> None:
        """Until it has ended, so long at most."""
        until = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < until:
            if is_canceled():
                raise EngineCanceled
            time.sleep(POLL)

    def _next(self, is_canceled: Callable[[], bool]) -> bytes | None:
        last = float("inf")
        while time.monotonic() < last:
            if is_canceled():
                raise EngineCanceled
            try:
                return self._queue.get(timeout=POLL)
            except queue.Empty:
                if self._process.poll() is not None and last == float("inf"):
                    # One that it started may hold the pipe open for ever.
                    self._signal("SIGKILL")
                    last = time.monotonic() + 2
        return None

    def _read(self) -> None:
        stdout = cast("IO[bytes]", self._process.stdout)
        with stdout:  # closed by the thread that reads: another would wait for it
            for line in iter(lambda: stdout.readline(LONGEST), b""):
                if not self._put(line):
                    return
        self._put(None)

    def _put(self, line: bytes | None) -> bool:
        """False when nobody listens any more."""
        while not self._closed.is_set():
            try:
                self._queue.put(line, timeout=POLL)
            except queue.Full:
                continue
            return True
        return False

    def _end(self) -> None:
        """Ask it to end, then kill all that is left of its group."""
        self._closed.set()
        if self._process.poll() is None:
            self._signal("SIGTERM")
            self._wait(POLITE)
        self._signal("SIGKILL")  # the leader may be gone and others of its group not
        self._wait(0.2)
        self._close_stdin()
        self._reader.join(0.1)

    def _wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def _signal(self, name: str) -> None:
        if os.name != "nt":
            try:
                os.killpg(self._process.pid, getattr(signal, name))
            except (ProcessLookupError, PermissionError):  # macOS says the latter of zombies
                return
        elif name == "SIGTERM":
            self._close_stdin()  # the engine takes it as SIGTERM, which Windows has not
        elif self._process.poll() is None:
            kill = ["taskkill", "/F", "/T", "/PID", str(self._process.pid)]
            flags = 0x08000000  # no console window
            subprocess.run(  # nosec B603 - a list, no shell
                kill, capture_output=True, creationflags=flags, check=False
            )

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
