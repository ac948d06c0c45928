"""Runs the engine, `geoseg … --json`, as a child process: standard library only, no Qt."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DROPPED = ("PYTHON", "PIP_", "QGIS_", "PROJ_", "GDAL_DATA", "GDAL_DRIVER_PATH")
DROPPED += ("GDAL_PAM_PROXY_DIR", "QT_PLUGIN_PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD")


class EngineError(Exception):
    """One message for users, which ends with what to do."""


class EngineMissing(EngineError):
    """No engine was found."""


class EngineCanceled(Exception):
    """The user canceled."""


def clean_environment() -> dict[str, str]:
    """This process's environment without what QGIS put there for itself."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(DROPPED)}
    ours = {"PYTHONIOENCODING": "utf-8"}
    ours.update({k: "1" for k in ("PYTHONUNBUFFERED", "PYTHONSAFEPATH", "PYTHONNOUSERSITE")})
    return {**kept, **ours, "GEOSEG_WATCH_STDIN": "1"}


@dataclass(frozen=True)
class Engine:
    """A geoseg in an environment of its own."""

    command: tuple[str, ...]

    def run(
        self,
        arguments: Sequence[str],
        *,
        on_event: Callable[[dict], None] = lambda event: None,
        is_canceled: Callable[[], bool] = lambda: False,
    ) -> dict:
        """Run a verb and return its "result" event."""
        group = {"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}
        with tempfile.TemporaryFile() as errors:
            try:
                child = subprocess.Popen(
                    [*self.command, *arguments, "--json"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=errors, env=clean_environment(), **group,
                )
            except OSError as e:
                raise EngineMissing(f"geoseg does not start ({e}). Set up the engine.") from e
            try:
                return _follow(child, on_event, is_canceled, errors)
            finally:
                _end(child)


def _follow(child, on_event, is_canceled, errors) -> dict:
    lines: queue.Queue = queue.Queue()
    reader = threading.Thread(target=lambda: [*map(lines.put, child.stdout), lines.put(None)])
    reader.daemon = True
    reader.start()
    result = None
    while True:
        if is_canceled():
            raise EngineCanceled
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            continue
        if line is None:
            break
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise EngineError("geoseg wrote what is no event. Repair the engine.")
        on_event(event)
        if event.get("event") == "error":
            raise EngineError(str(event.get("message")))
        if event.get("event") == "result":
            result = event
    code = child.wait()
    if code == 0 and result is not None:
        return result
    errors.seek(0)
    tail = errors.read()[-2000:].decode("utf-8", "replace").strip()
    raise EngineError(f"geoseg ended with {code} and no result. Repair the engine.\n{tail}")


def _end(child) -> None:
    """Terminate the group, then kill it; nobody stays."""
    for number in ("SIGTERM", "SIGKILL"):
        if child.poll() is None:
            if os.name == "nt":
                child.kill()
            else:
                os.killpg(child.pid, getattr(signal, number))
            try:
                child.wait(0.7)
            except subprocess.TimeoutExpired:
                continue
    child.stdin.close()
